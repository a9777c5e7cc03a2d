use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::fd::duplicate;
use super::tree::{LossRow, Tree, losses, open};
use crate::decoded as core;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::output::WriteRequest;
use crate::output::erofs::{self, Completed};

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct LayerTable(pub(super) core::Table);

/// A reason's code, what messages say of it, and the path of the entry.
type ReasonRow = (String, &'static str, Py<PyBytes>);

fn reason(py: Python<'_>, code: &str, path: &[u8]) -> ReasonRow {
    (code.to_owned(), core::explain(code), PyBytes::new(py, path).unbind())
}

#[pymethods]
impl LayerTable {
    #[new]
    #[pyo3(signature = (fd, /))]
    fn new(py: Python<'_>, fd: i32) -> PyResult<Self> {
        Ok(LayerTable(py.detach(|| core::Table::open(duplicate(fd)?))?))
    }

    #[getter]
    fn diff_id(&self) -> String {
        self.0.diff_id().to_string()
    }

    #[getter]
    fn entries(&self) -> u64 {
        self.0.len()
    }

    #[getter]
    fn reason(&self, py: Python<'_>) -> Option<ReasonRow> {
        self.0.reason().map(|(code, path)| reason(py, code, path))
    }

    #[pyo3(signature = (fd, note, /))]
    fn copy(&self, py: Python<'_>, fd: i32, note: &[u8]) -> PyResult<()> {
        Ok(py.detach(|| self.0.copy(&duplicate(fd)?, note))?)
    }

    #[getter]
    fn note(&self, py: Python<'_>) -> Py<PyBytes> {
        PyBytes::new(py, self.0.note()).unbind()
    }
}

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct KeptLayer {
    kept: Mutex<core::KeptLayer>,
    limits: Limits,
    completed: Mutex<Option<Completed>>,
}

impl KeptLayer {
    pub(super) fn new(kept: core::KeptLayer, limits: Limits) -> Self {
        KeptLayer { kept: Mutex::new(kept), limits, completed: Mutex::default() }
    }
}

#[pymethods]
impl KeptLayer {
    fn complete(&self, py: Python<'_>) -> PyResult<(u64, String, Option<ReasonRow>)> {
        let completed = py.detach(|| {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            erofs::complete_kept(&mut kept, &self.limits)
        })?;
        let row = completed.reason.as_ref().map(|found| reason(py, found.code, &found.path));
        let told = (completed.bytes, completed.digest.clone(), row);
        *self.completed.lock().unwrap_or_else(PoisonError::into_inner) = Some(completed);
        Ok(told)
    }

    #[pyo3(signature = (note, /))]
    fn seal(&self, py: Python<'_>, note: &[u8]) -> PyResult<()> {
        py.detach(|| {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let completed = self.completed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(completed) = &*completed else {
                return Err(Error::new(Code::Io, "the kept layer is not complete"));
            };
            erofs::seal(&mut kept, completed.reason.as_ref(), note)
        })?;
        Ok(())
    }
}

#[pyfunction]
#[pyo3(signature = (fd, /))]
pub(super) fn layer_digest(py: Python<'_>, fd: i32) -> PyResult<String> {
    Ok(py.detach(|| erofs::layer_digest(&duplicate(fd)?))?)
}

#[pyfunction]
#[pyo3(signature = (tree, /))]
pub(super) fn layers_in_use(py: Python<'_>, tree: &Tree) -> PyResult<Vec<(u32, u64, u64)>> {
    let found = py.detach(|| erofs::layers_in_use(tree.source()))?;
    Ok(found.iter().map(|layer| (layer.layer, layer.length, layer.dead)).collect())
}

#[pyfunction]
#[pyo3(signature = (tree, files, /))]
pub(super) fn write_private_layers(py: Python<'_>, tree: &Tree, files: Vec<(u32, i32)>) -> PyResult<()> {
    py.detach(|| {
        let files = files.into_iter().map(|(layer, fd)| Ok((layer, duplicate(fd)?)));
        erofs::write_private_layers(tree.source(), &files.collect::<Result<Vec<_>>>()?)
    })?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (tree, fd, /, *, devices, uuid, created, single = false, clamp_mtime = None))]
#[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
pub(super) fn write_layered_erofs(
    py: Python<'_>,
    tree: &Tree,
    fd: i32,
    devices: Vec<(Vec<u32>, String)>,
    uuid: [u8; 16],
    created: i64,
    single: bool,
    clamp_mtime: Option<i64>,
) -> PyResult<(u64, Vec<LossRow>, Vec<u64>)> {
    let devices: Vec<_> = devices.into_iter().map(|(layers, tag)| erofs::Device { layers, tag }).collect();
    let options = erofs::LayeredOptions { devices: &devices, single };
    let written = py.detach(|| {
        let request = WriteRequest::new(tree.source(), open(fd)?, options);
        erofs::write_layered(WriteRequest { uuid, created, clamp_mtime, ..request })
    })?;
    Ok((written.bytes.unwrap_or_default(), losses(py, written.losses), written.properties.bases))
}
