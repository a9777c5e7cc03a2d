use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::tree::Tree;
use crate::usage as core;

/// Files, bytes, hidden files, hidden bytes.
type UsageRow = (u64, u64, u64, u64);
/// Path, bytes, layer.
type LargeRow = (Py<PyBytes>, u64, u32);
/// Path, bytes, layer, the layer that hid it, whether something took its place.
type HiddenRow = (Py<PyBytes>, u64, u32, u32, bool);
/// The first few paths, how many there are, bytes of one.
type DuplicateRow = (Vec<Py<PyBytes>>, u64, u64);

#[pyfunction]
#[pyo3(signature = (tree, path, /, *, layers, top))]
#[expect(clippy::type_complexity, reason = "one row of Python's for each list")]
pub(super) fn usage(
    py: Python<'_>,
    tree: &Tree,
    path: &[u8],
    layers: usize,
    top: usize,
) -> PyResult<(Vec<UsageRow>, Vec<LargeRow>, Vec<LargeRow>, Vec<HiddenRow>, Vec<DuplicateRow>, u64)> {
    let found = py.detach(|| core::usage(&tree.tree, &*tree.contents, path, layers, top))?;
    let text = |path: &[u8]| PyBytes::new(py, path).unbind();
    let layer = |one: &core::LayerUsage| (one.files, one.bytes, one.hidden_files, one.hidden_bytes);
    let large = |one: &core::Large| (text(&one.path), one.bytes.0, one.layer);
    let hidden = |one: &core::HiddenFile| {
        let (path, bytes, layer) = large(&one.file);
        (path, bytes, layer, one.by, one.replaced)
    };
    let duplicate = |one: &core::Duplicate| (one.paths.iter().map(|path| text(path)).collect(), one.count, one.bytes);
    Ok((
        found.layers.iter().map(layer).collect(),
        found.files.iter().map(large).collect(),
        found.folders.iter().map(large).collect(),
        found.hidden.iter().map(hidden).collect(),
        found.duplicates.iter().map(duplicate).collect(),
        found.duplicate_bytes,
    ))
}
