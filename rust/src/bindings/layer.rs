use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use pyo3::prelude::*;

use super::fd::duplicate;
use crate::entry::{Metadata, Mtime};
use crate::error::{Code, Error, Result};
use crate::output::Compression;
use crate::output::layer::{self as core, Content, LayerMember, Positioned};

/// Path, mode, kind, source or data or target, size, owner, group, mtime as seconds and nanoseconds.
type Row = (Vec<u8>, u16, String, Vec<u8>, u64, u32, u32, i64, u32);

fn member((path, mode, kind, data, size, uid, gid, seconds, nanoseconds): Row) -> Result<LayerMember> {
    let content = match kind.as_str() {
        "file" => Content::File { path: OsString::from_vec(data).into(), size },
        "bytes" => Content::Bytes(data),
        "directory" => Content::Directory,
        "symlink" => Content::Symlink(data),
        _ => return Err(Error::new(Code::Internal, format!("no kind of member is called \"{kind}\""))),
    };
    let mtime = Mtime { seconds, nanoseconds };
    Ok(LayerMember { path, metadata: Metadata { mode, uid, gid, mtime, xattrs: None }, content })
}

/// Writes the blob of a layer into a file; returns digest, size, diff ID.
#[pyfunction]
#[pyo3(signature = (members, fd, offset, /, *, compression, level))]
pub(super) fn write_layer(
    py: Python<'_>,
    members: Vec<Row>,
    fd: i32,
    offset: u64,
    compression: &str,
    level: i32,
) -> PyResult<(String, u64, String)> {
    let written = py.detach(|| -> Result<_> {
        let members = members.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        let output = Positioned::new(duplicate(fd)?, offset);
        core::write_layer(&members, Compression::parse(compression, level)?, output)
    });
    let layer = written?;
    Ok((layer.digest.to_string(), layer.size, layer.diff_id.to_string()))
}
