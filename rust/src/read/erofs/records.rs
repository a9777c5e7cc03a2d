//! Inodes and where their data stand, as records.

use std::sync::Arc;

use crate::entry::Mtime;
use crate::read::unpack::BlockAlgorithm;

/// How an inode's data are found (`i_format`, bits 1 to 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain,
    CompressedFull,
    Inline,
    CompressedCompact,
    Chunked,
}

/// An inode as the image has it.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub nid: u64,
    /// Type and permissions.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    pub size: u64,
    pub layout: Layout,
    /// First block, device number, or format of chunks.
    pub data: u32,
    /// Where the attributes begin, and their bytes.
    pub attributes: (u64, u64),
    /// First byte after inode and attributes.
    pub behind: u64,
}

impl Inode {
    /// The number of the type.
    pub fn kind(&self) -> u16 {
        self.mode >> 12
    }
}

/// How the bytes of an extent are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Uncompressed. An interlaced cluster is rotated: it begins at the bytes' offset in their logical cluster.
    Plain {
        /// Bytes before the first.
        turned: u64,
    },
    Compressed(BlockAlgorithm),
    /// In the packed inode, from this byte of it on.
    Fragment(u64),
}

/// A run of the file's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogicalExtent {
    /// First byte in the file; it ends where the next one begins, the last at the file's end.
    pub logical: u64,
    /// First byte in the image, and bytes there.
    pub place: (u64, u64),
    /// Whether `place` is an address of blocks, which a device may hold; else it is behind the inode.
    pub in_blocks: bool,
    pub packing: Packing,
}

/// Where data stand.
pub(super) enum Map {
    /// One after the other from this byte on, the last bytes at another place.
    Flat { start: u64, whole: u64, tail: u64 },
    /// Chunks of so many bytes as a power of two; device and first byte of each, or none for a hole.
    Chunks { bits: u32, places: Vec<Option<(u16, u64)>> },
    /// Compressed extents, and the bytes of the one that was unpacked last.
    Extents { extents: Vec<LogicalExtent>, last: Option<(usize, Arc<Vec<u8>>)> },
}

/// An inode whose data can be read.
pub(super) struct Opened {
    pub inode: Inode,
    pub map: Map,
}
