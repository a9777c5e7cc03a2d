use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use pyo3::prelude::*;

use super::fd::duplicate;
use crate::digest::Digest;
use crate::entry::{Metadata, Mtime, is_device};
use crate::error::{Code, Error, Result};
use crate::output::below::Below;
use crate::output::layer_blob::{self as core, LayerMember, MemberContent};
use crate::output::{StreamCompression, Target, WriteRequest, Written};

/// Path, mode, kind, source or data or target, size, owner, group, mtime as seconds and nanoseconds.
type MemberRow = (Vec<u8>, u16, String, Vec<u8>, u64, u32, u32, i64, u32);

fn member((path, mode, kind, data, size, uid, gid, seconds, nanoseconds): MemberRow) -> Result<LayerMember> {
    let content = match kind.as_str() {
        "file" => MemberContent::File { path: OsString::from_vec(data).into(), size },
        "bytes" => MemberContent::Bytes(data),
        "directory" => MemberContent::Directory,
        "symlink" => MemberContent::Symlink(data),
        _ => return Err(Error::new(Code::Internal, format!("no kind of member is called \"{kind}\""))),
    };
    let mtime = Mtime { seconds, nanoseconds };
    Ok(LayerMember { path, metadata: Metadata { mode, uid, gid, mtime, xattrs: None }, content })
}

fn text(digest: Option<Digest>) -> String {
    digest.map_or_else(String::new, |digest| digest.to_string())
}

/// Writes the blob of a layer into a file; returns digest, size, diff ID.
#[pyfunction]
#[pyo3(signature = (members, fd, offset, /, *, compression, level))]
pub(super) fn write_layer(
    py: Python<'_>,
    members: Vec<MemberRow>,
    fd: i32,
    offset: u64,
    compression: &str,
    level: i32,
) -> PyResult<(String, u64, String)> {
    let written = py.detach(|| -> Result<_> {
        let members = members.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        let options = core::Options { compression: StreamCompression::parse(compression, level)? };
        core::write(WriteRequest::new(&members[..], Target::At(duplicate(fd)?, offset), options))
    });
    let Written { bytes, properties, .. } = written?;
    Ok((text(properties.digest), bytes.unwrap_or_default(), text(properties.diff_id)))
}

/// Path, mode, kind, target, size, owner, group, mtime as seconds and nanoseconds, attributes, device number.
type FolderRow = (Vec<u8>, u16, String, Vec<u8>, u64, u32, u32, i64, u32, Vec<(Vec<u8>, Vec<u8>)>, (u32, u32));

/// Writes what is below a folder as a tar into a file; returns digest and size.
#[pyfunction]
#[pyo3(signature = (folder, members, fd, /))]
pub(super) fn write_folder(py: Python<'_>, folder: i32, members: Vec<FolderRow>, fd: i32) -> PyResult<(String, u64)> {
    let written = py.detach(|| -> Result<_> {
        let folder = Arc::new(duplicate(folder)?.into());
        let member = |(path, mode, kind, target, size, uid, gid, seconds, nanoseconds, xattrs, number): FolderRow| {
            let content = match kind.as_str() {
                "file" => {
                    let path = OsString::from_vec(path.clone()).into();
                    MemberContent::Below { file: Below { folder: Arc::clone(&folder), path }, size }
                }
                "directory" => MemberContent::Directory,
                "symlink" => MemberContent::Symlink(target),
                "hardlink" => MemberContent::HardLink(target),
                "char" if is_device(number.0.into(), number.1.into()) => MemberContent::CharDevice(number.0, number.1),
                "block" if is_device(number.0.into(), number.1.into()) => {
                    MemberContent::BlockDevice(number.0, number.1)
                }
                "fifo" => MemberContent::Fifo,
                _ => return Err(Error::new(Code::Internal, format!("no kind of member is called \"{kind}\""))),
            };
            let xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs.into_iter().collect()));
            let metadata = Metadata { mode, uid, gid, mtime: Mtime { seconds, nanoseconds }, xattrs };
            Ok(LayerMember { path, metadata, content })
        };
        let members = members.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        let options = core::Options { compression: StreamCompression::None };
        core::write(WriteRequest::new(&members[..], Target::At(duplicate(fd)?, 0), options))
    });
    let Written { bytes, properties, .. } = written?;
    Ok((text(properties.digest), bytes.unwrap_or_default()))
}
