//! Inodes and where their data stand, as records.

use crate::entry::Mtime;

/// An inode as the image has it.
pub(super) struct Inode {
    pub number: u32,
    /// Type and permissions.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    pub size: u64,
    pub flags: u32,
    /// Extents, a short link's target, or a device number.
    pub map: Vec<u8>,
    /// The block of attributes, 0 for none.
    pub attribute_block: u64,
    /// The part of the inode after its fields.
    pub attributes: Vec<u8>,
}

impl Inode {
    /// The number of the type.
    pub fn kind(&self) -> u16 {
        self.mode >> 12
    }
}

/// Data that stand together, in blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub logical: u64,
    pub count: u64,
    pub physical: u64,
    /// Reads as zeros, whatever its blocks hold.
    pub unwritten: bool,
}
