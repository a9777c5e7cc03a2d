use std::path::PathBuf;

use pyo3::prelude::*;

use super::tree::tell;
use crate::error::Error;
use crate::verity as core;

#[pyfunction]
#[pyo3(signature = (path, /, *, salt, uuid, threads = 1, progress = None))]
pub(super) fn seal_verity(
    py: Python<'_>,
    path: PathBuf,
    salt: Vec<u8>,
    uuid: [u8; 16],
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<([u8; 32], u64, u64)> {
    let options = core::Options { salt, uuid, threads };
    let mut raised = None;
    let sealed = py.detach(|| {
        let file = std::fs::File::options().read(true).write(true).open(&path);
        let file = file.map_err(|error| Error::io("cannot open the image for its hash tree", &error))?;
        core::seal(&file, &options, &mut |done, total| tell(progress.as_ref(), &mut raised, done, total))
    });
    if let Some(raised) = raised {
        return Err(raised);
    }
    let sealed = sealed?;
    Ok((sealed.root_hash, sealed.hash_offset, sealed.data_blocks))
}
