use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::tree::{Tree, TreeRow};
use crate::compare::{self as core, Side};
use crate::error::Result;

/// Path, the entry in the first tree, the one in the second, what differs.
type ChangeRow = (Py<PyBytes>, Option<TreeRow>, Option<TreeRow>, Vec<&'static str>);

#[pyfunction]
#[pyo3(signature = (first, second, /, *, times))]
pub(super) fn compare(py: Python<'_>, first: &Tree, second: &Tree, times: bool) -> PyResult<Vec<ChangeRow>> {
    let changes = py.detach(|| -> Result<_> {
        let one = Side { tree: &first.tree, contents: &*first.contents };
        let other = Side { tree: &second.tree, contents: &*second.contents };
        core::compare(&one, &other, std::ptr::addr_eq(one.contents, other.contents), times)
    })?;
    let rows = changes.into_iter().map(|change| {
        let row = |tree: &Tree, inode| tree.row(py, &change.path, inode);
        let one = change.first.map(|inode| row(first, inode));
        let other = change.second.map(|inode| row(second, inode));
        (PyBytes::new(py, &change.path).unbind(), one, other, change.fields)
    });
    Ok(rows.collect())
}
