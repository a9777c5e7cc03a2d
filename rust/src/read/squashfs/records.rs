//! Inodes and where their data stand, as records.

use std::sync::Arc;

use super::metadata::Place;
use crate::entry::Mtime;

/// What belongs to one type.
#[derive(Clone, Debug)]
pub(super) enum InodeBody {
    /// Bytes of its names, and where they begin.
    Directory(u64, Place),
    File(FileBody),
    Symlink(Vec<u8>),
    BlockDevice(u32),
    CharDevice(u32),
    Fifo,
}

/// Where a file's data are.
#[derive(Clone, Debug)]
pub(super) struct FileBody {
    /// First byte of the first block.
    pub start: u64,
    pub size: u64,
    /// Number of the fragment that holds its end, and where in it.
    pub fragment: Option<(u32, u32)>,
    /// Lengths of its blocks as they stand.
    pub blocks: Vec<u32>,
}

/// An inode as the image has it.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    /// The type of the short form.
    pub kind: u16,
    pub body: InodeBody,
    /// Number of its set of attributes.
    pub set: Option<u32>,
}

/// A fragment that was unpacked, by its number.
pub(super) type Fragment = (u32, Arc<Vec<u8>>);

/// A file whose data can be read.
pub(super) struct Opened {
    pub position: u64,
    pub body: FileBody,
    /// Where each block stands.
    pub starts: Vec<u64>,
}
