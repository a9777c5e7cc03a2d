use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::fd::duplicate;
use crate::error::Result;
use crate::frames as core;

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct FrameWriter(Mutex<core::FrameWriter>);

#[pymethods]
impl FrameWriter {
    #[new]
    #[pyo3(signature = (fds, size, /, *, threads))]
    fn new(fds: Vec<RawFd>, size: u64, threads: usize) -> PyResult<Self> {
        let files = fds.into_iter().map(duplicate).collect::<Result<_>>()?;
        Ok(FrameWriter(Mutex::new(core::FrameWriter::new(files, size, threads)?)))
    }

    #[pyo3(signature = (data, /))]
    fn write(&self, py: Python<'_>, data: PyBackedBytes) -> PyResult<()> {
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).write(&data))?)
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).finish())?)
    }
}

#[pyfunction]
#[pyo3(signature = (source, destination, /, *, level, threads))]
pub(super) fn compress_frames(
    py: Python<'_>,
    source: RawFd,
    destination: RawFd,
    level: i32,
    threads: usize,
) -> PyResult<(String, u64)> {
    let run = || core::compress(&duplicate(source)?, &mut duplicate(destination)?, level, threads);
    let (digest, length) = py.detach(run)?;
    Ok((digest.to_string(), length))
}
