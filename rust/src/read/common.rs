//! What all readers have in common.

use std::sync::Arc;

use crate::contents::{Content, Contents};
use crate::entry::directory_type;
use crate::error::{Code, Error, Result};
use crate::path::TARGET_MAX;
use crate::tree::{InodeKind, Tree};

/// An image that was read.
pub struct Image {
    /// Its names and inodes.
    pub tree: Tree,
    /// Its files.
    pub contents: Arc<dyn Contents>,
}

/// What is damaged, or not known.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::FilesystemInvalid, message)
}

/// How much of a content a read of `length` bytes at `offset` gives.
pub(super) fn wanted(content: &Content, offset: u64, length: usize) -> usize {
    usize::try_from(content.size.saturating_sub(offset)).map_or(length, |left| left.min(length))
}

/// Major and minor of a device number as Linux encodes it in 32 bits.
pub(super) fn device_numbers(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}

/// What an inode is, as the type in its mode says (`S_IFMT`, include/uapi/linux/stat.h).
///
/// # Errors
/// `filesystem_invalid` for a type that is not kept, and a link target that is too long; those of `file` and `target`.
pub(super) fn kind_of(
    name: &[u8],
    mode: u32,
    (major, minor): (u32, u32),
    size: u64,
    file: impl FnOnce() -> Result<InodeKind>,
    target: impl FnOnce(usize) -> Result<Vec<u8>>,
) -> Result<InodeKind> {
    Ok(match mode >> 12 {
        0o01 => InodeKind::Fifo,
        0o02 => InodeKind::CharDevice { major, minor },
        0o04 => InodeKind::Directory(Default::default()),
        0o06 => InodeKind::BlockDevice { major, minor },
        0o10 => file()?,
        0o12 if size > TARGET_MAX as u64 => return Err(invalid(format!("a link target of {size} bytes"))),
        0o12 => InodeKind::Symlink(target(size as usize)?.into()),
        0o14 => return Err(invalid("a socket, which is no part of an image")),
        other => return Err(invalid(format!("\"{}\" has the unknown type {other:o}", name.escape_ascii()))),
    })
}

/// Compares the type that stands beside a name with that in the inode's mode: it is a copy, or 0 where it was not known.
///
/// # Errors
/// `filesystem_invalid`.
pub(super) fn check_type(name: &[u8], stated: u8, mode: u16) -> Result<()> {
    let expected = directory_type(mode);
    if expected == 0 || stated != 0 && stated != expected {
        return Err(invalid(format!("\"{}\" has a type that is not its inode's", name.escape_ascii())));
    }
    Ok(())
}
