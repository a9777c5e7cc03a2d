//! Numbers of the on-disk format (Linux, Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h). All integers are
//! little-endian.

/// Bytes of a block. Every kernel that knows erofs can mount 4096 on a machine with pages of 4096 bytes.
pub const BLOCK: usize = 4096;

/// Bytes of an inode slot: a node number (nid) counts slots from the start of the metadata area.
pub const SLOT: usize = 32;

/// Slots of a block.
pub const SLOTS: u32 = (BLOCK / SLOT) as u32;

/// Bytes of a compact and of an extended inode.
pub const COMPACT: usize = 32;
/// See [`COMPACT`].
pub const EXTENDED: usize = 64;

/// In the format of chunks: entries of the table name a device as well.
pub const INDEXES: u32 = 0x20;

/// Bytes of such an entry, which stands at a multiple of them.
pub const INDEX: usize = 8;

/// The address of a chunk that is a hole.
pub const NULL_ADDRESS: u32 = u32::MAX;

/// How an inode's data are found (i_format, bits 1 to 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataLayout {
    /// Blocks, one after the other.
    FlatPlain = 0,
    /// A table with an entry for every block behind the inode.
    CompressedFull = 1,
    /// Blocks, then the rest right behind the inode.
    FlatInline = 2,
    /// A table of chunk addresses behind the inode.
    ChunkBased = 4,
}

/// Whole blocks that hold `bytes`.
pub fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64)
}
