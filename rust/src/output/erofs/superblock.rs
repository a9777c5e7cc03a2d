//! The superblock: what a kernel reads first, and what is written last.

use super::codec::Compression;
use super::format::BLOCK;
use crate::entry::Mtime;

/// Bytes before the superblock, for boot sectors.
const OFFSET: usize = 1024;

const MAGIC: u32 = 0xE0F5_E1E2;

/// Compatible features: the checksum; times are modification times.
const COMPATIBLE: u32 = 1 | 2;

/// Incompatible features: some file is a table of chunks; clusters end with their data, and have a size and settings of
/// their own; the last one may be behind its inode.
const CHUNKED: u32 = 4;
/// The same of a table of devices.
const DEVICES: u32 = 8;
const COMPRESSED: u32 = 1 | 2 | 16;

/// Bytes of the superblock, without what follows it.
const LENGTH: usize = 128;

/// Bytes of a device's tag.
pub const TAG: usize = 64;

/// What the table says of a device.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its name.
    pub tag: [u8; TAG],
    /// Its blocks.
    pub blocks: u32,
    /// Where it begins when all devices are one, in blocks.
    pub mapped: u32,
}

impl Slot {
    /// Bytes of a slot in the table, which begins at a multiple of them.
    pub const LENGTH: usize = 128;
}

/// Blocks of superblock and table, for a table of so many bytes.
pub fn head_blocks(table: usize) -> u64 {
    (OFFSET + LENGTH + table).div_ceil(BLOCK) as u64
}

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
    /// Whether some file is a table of chunks.
    pub chunked: bool,
    /// How contents are compressed.
    pub compression: Option<Compression>,
    /// Where else the data are; none in a compressed image, whose settings stand in the place of the table.
    pub devices: Vec<Slot>,
}

impl Superblock {
    /// Block 0 of the image, checksum included, and those that the table of devices takes behind it.
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
        let chunked = if self.chunked { CHUNKED } else { 0 };
        let compressed = if self.compression.is_some() { COMPRESSED } else { 0 };
        let devices = if self.devices.is_empty() { 0 } else { DEVICES };
        field(&mut out, &(chunked | compressed | devices).to_le_bytes());
        if let Some(compression) = &self.compression {
            field(&mut out, &(1u16 << compression.number()).to_le_bytes());
            out.resize(OFFSET + LENGTH, 0);
            let settings = compression.settings();
            field(&mut out, &(settings.len() as u16).to_le_bytes());
            field(&mut out, &settings);
        } else if !self.devices.is_empty() {
            field(&mut out, &[0; 2]);
            field(&mut out, &(self.devices.len() as u16).to_le_bytes());
            field(&mut out, &(((OFFSET + LENGTH) / Slot::LENGTH) as u16).to_le_bytes());
            out.resize(OFFSET + LENGTH, 0);
            for slot in &self.devices {
                field(&mut out, &slot.tag);
                field(&mut out, &slot.blocks.to_le_bytes());
                field(&mut out, &slot.mapped.to_le_bytes());
                field(&mut out, &[0; 56]);
            }
        }
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        // The kernel's CRC32C is not inverted at its end.
        let checksum = !crc32c::crc32c(&out[OFFSET..BLOCK]);
        out[OFFSET + 4..OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}
