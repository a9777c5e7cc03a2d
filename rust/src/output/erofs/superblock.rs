//! The superblock: what a kernel reads first, and what is written last.

use super::format::BLOCK;
use crate::entry::Mtime;

/// Bytes before the superblock, for boot sectors.
const OFFSET: usize = 1024;

const MAGIC: u32 = 0xE0F5_E1E2;

/// Compatible features: the checksum; times are modification times.
const COMPATIBLE: u32 = 1 | 2;

/// Incompatible feature: some file is a table of chunks.
pub const CHUNKED: u32 = 4;

/// What the superblock says.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Node number of the root.
    pub root_nid: u16,
    /// Number of inodes.
    pub inodes: u64,
    /// The time of all inodes of the short form.
    pub build_time: Mtime,
    /// Blocks of the image.
    pub blocks: u32,
    /// Block from which node numbers count.
    pub meta_block: u32,
    /// First block of the shared attributes.
    pub xattr_block: u32,
    /// Identity of the image.
    pub uuid: [u8; 16],
    /// Features that a kernel must know to read the image.
    pub incompatible: u32,
}

impl Superblock {
    /// Block 0 of the image, checksum included.
    pub fn block(&self) -> Vec<u8> {
        let mut out = vec![0; OFFSET];
        let field = |out: &mut Vec<u8>, bytes: &[u8]| out.extend_from_slice(bytes);
        field(&mut out, &MAGIC.to_le_bytes());
        field(&mut out, &[0; 4]);
        field(&mut out, &COMPATIBLE.to_le_bytes());
        field(&mut out, &[BLOCK.trailing_zeros() as u8, 0]);
        field(&mut out, &self.root_nid.to_le_bytes());
        field(&mut out, &self.inodes.to_le_bytes());
        field(&mut out, &self.build_time.seconds.to_le_bytes());
        field(&mut out, &self.build_time.nanoseconds.to_le_bytes());
        field(&mut out, &self.blocks.to_le_bytes());
        field(&mut out, &self.meta_block.to_le_bytes());
        field(&mut out, &self.xattr_block.to_le_bytes());
        field(&mut out, &self.uuid);
        field(&mut out, &[0; 16]);
        field(&mut out, &self.incompatible.to_le_bytes());
        out.resize(BLOCK, 0);
        // The kernel's CRC32C is not inverted at its end.
        let checksum = !crc32c::crc32c(&out[OFFSET..]);
        out[OFFSET + 4..OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}
