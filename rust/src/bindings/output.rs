use pyo3::prelude::*;

use crate::output::squashfs::Compression;

/// How the blocks of a squashfs image are compressed.
#[pyclass(frozen, from_py_object, module = "ocifast._core")]
#[derive(Clone, Copy)]
pub(super) struct SquashfsCompression(pub(super) Compression);

#[pymethods]
impl SquashfsCompression {
    #[new]
    #[pyo3(signature = (name, *, level = None, block_size = 131_072, fragments = true, threads = 1))]
    fn new(name: &str, level: Option<i32>, block_size: usize, fragments: bool, threads: usize) -> PyResult<Self> {
        Ok(SquashfsCompression(Compression::parse(name, level, block_size, fragments, threads)?))
    }
}
