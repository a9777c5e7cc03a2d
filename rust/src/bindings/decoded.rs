use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::fd::duplicate;
use crate::decoded as core;
use crate::error::{Code, Error};
use crate::limits::Limits;
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
        let told = (completed.bytes, completed.digest.to_string(), row);
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
    Ok(py.detach(|| erofs::layer_digest(&duplicate(fd)?))?.to_string())
}
