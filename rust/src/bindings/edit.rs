use pyo3::prelude::*;

use crate::edit as core;
use crate::entry::Mtime;

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Edit(pub(super) core::Edit);

#[pymethods]
impl Edit {
    #[new]
    #[pyo3(signature = (*, exclude, subtree = None, mount_points = None, owner = None, id_offset = 0))]
    fn new(
        exclude: Vec<String>,
        subtree: Option<Vec<u8>>,
        mount_points: Option<i64>,
        owner: Option<(u32, u32)>,
        id_offset: u32,
    ) -> Self {
        let mount_points = mount_points.map(|seconds| Mtime { seconds, nanoseconds: 0 });
        Edit(core::Edit { exclude, subtree, mount_points, owner, id_offset })
    }
}
