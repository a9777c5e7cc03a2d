use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::entry::Metadata;
use crate::tar::{Member, MemberKind, header};

#[pyfunction]
#[pyo3(signature = (path, size, /))]
pub(super) fn tar_header<'py>(py: Python<'py>, path: &[u8], size: Option<u64>) -> PyResult<Bound<'py, PyBytes>> {
    let (kind, mode) = size.map_or((MemberKind::Directory, 0o755), |size| (MemberKind::File { size }, 0o644));
    let metadata = Metadata { mode, ..Metadata::default() };
    let blocks = py.detach(|| header(&Member { path, metadata: &metadata, kind }))?;
    Ok(PyBytes::new(py, &blocks))
}
