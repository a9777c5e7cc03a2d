use std::os::fd::RawFd;

use pyo3::prelude::*;

use super::fd::duplicate;
use crate::decompress as core;
use crate::limits::Limits;

#[pyfunction]
#[pyo3(signature = (source, destination, /))]
pub(super) fn decompress(py: Python<'_>, source: RawFd, destination: RawFd) -> PyResult<(String, u64)> {
    let run = || core::decompress(duplicate(source)?, duplicate(destination)?, &Limits::default());
    let (diff_id, length) = py.detach(run)?;
    Ok((diff_id.as_str().to_owned(), length))
}

#[pyfunction]
#[pyo3(signature = (fd, digest, size, /))]
pub(super) fn check_points(py: Python<'_>, fd: RawFd, digest: &str, size: u64) -> PyResult<()> {
    py.detach(|| core::Restart::open(duplicate(fd)?, &digest.parse()?, size))?;
    Ok(())
}
