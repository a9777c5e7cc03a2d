use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::fd::duplicate;
use crate::digest as core;
use crate::error::{Code, Error, Result};
use crate::file_digest as files;

#[pyfunction]
#[pyo3(signature = (data, /))]
pub(super) fn digest(py: Python<'_>, data: PyBackedBytes) -> String {
    py.detach(|| core::Digest::of(&data).as_str().to_owned())
}

#[pyfunction]
#[pyo3(signature = (text, /))]
pub(super) fn check_digest(text: &str) -> PyResult<()> {
    text.parse::<core::Digest>()?;
    Ok(())
}

/// Runs what can be ended by a signal that Python has a handler for.
fn answering_signals<T: Send>(
    py: Python<'_>,
    run: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        run(&mut || {
            Python::attach(|py| py.check_signals()).map_err(|error| {
                raised = Some(error);
                Error::new(Code::Cancelled, "a signal came")
            })
        })
    });
    match raised {
        Some(raised) => Err(raised),
        None => Ok(result?),
    }
}

#[pyfunction]
#[pyo3(signature = (fd, /, *, threads = 1))]
pub(super) fn file_digest(py: Python<'_>, fd: RawFd, threads: usize) -> PyResult<String> {
    answering_signals(py, |tell| files::digest(&duplicate(fd)?, threads, tell))
}

#[pyfunction]
#[pyo3(signature = (source, destination, /, *, threads = 1))]
pub(super) fn copy_file(py: Python<'_>, source: RawFd, destination: RawFd, threads: usize) -> PyResult<String> {
    answering_signals(py, |tell| files::copy(&duplicate(source)?, &duplicate(destination)?, threads, tell))
}

#[pyfunction]
#[pyo3(signature = (fd, /))]
pub(super) fn start_writeback(py: Python<'_>, fd: RawFd) {
    #[cfg(target_os = "linux")]
    py.detach(|| {
        // SAFETY: the call takes numbers only; a file that is not open is an error. A failure costs nothing but time, and one
        // of the disk is told to who waits for it.
        _ = unsafe { libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    });
    #[cfg(not(target_os = "linux"))]
    let _ = (py, fd);
}

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Hasher(std::sync::Mutex<core::Hasher>);

#[pymethods]
impl Hasher {
    #[new]
    #[pyo3(signature = (algorithm = "sha256"))]
    fn new(algorithm: &str) -> PyResult<Self> {
        let algorithm = algorithm.parse()?;
        Ok(Hasher(std::sync::Mutex::new(core::Hasher::new(algorithm))))
    }

    #[pyo3(signature = (data, /))]
    fn update(&self, py: Python<'_>, data: PyBackedBytes) {
        py.detach(|| self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).update(&data));
    }

    fn digest(&self) -> String {
        let hasher = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        hasher.finish().as_str().to_owned()
    }
}
