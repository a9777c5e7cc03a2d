//! The superblock: what a kernel reads first, and what is written last.

use super::numbers::BLOCK;
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

/// Where the fields of the superblock begin in it (Linux, fs/erofs/erofs_fs.h, `struct erofs_super_block`).
mod field {
    pub const MAGIC: usize = 0;
    pub const CHECKSUM: usize = 4;
    pub const FEATURE_COMPAT: usize = 8;
    pub const BLKSZBITS: usize = 12;
    pub const ROOT_NID: usize = 14;
    pub const INOS: usize = 16;
    pub const EPOCH: usize = 24;
    pub const FIXED_NSEC: usize = 32;
    pub const BLOCKS: usize = 36;
    pub const META_BLKADDR: usize = 40;
    pub const XATTR_BLKADDR: usize = 44;
    pub const UUID: usize = 48;
    pub const FEATURE_INCOMPAT: usize = 80;
    pub const AVAILABLE_COMPR_ALGS: usize = 84;
    pub const EXTRA_DEVICES: usize = 86;
    pub const DEVT_SLOTOFF: usize = 88;
}

/// Bytes of a device's tag.
pub const TAG: usize = 64;

/// What the table says of a device.
#[derive(Clone, Debug)]
pub struct DeviceSlot {
    /// Its name.
    pub tag: [u8; TAG],
    /// Its blocks.
    pub blocks: u32,
    /// Where it begins when all devices are one, in blocks.
    pub mapped: u32,
}

impl DeviceSlot {
    /// Bytes of a slot in the table, which begins at a multiple of them.
    pub const LENGTH: usize = 128;
}

/// Blocks of superblock and table, for a table of so many bytes.
pub fn head_blocks(table: usize) -> u64 {
    (OFFSET + LENGTH + table).div_ceil(BLOCK) as u64
}

/// What the image says of how its contents are compressed.
#[derive(Clone, Debug)]
pub struct Coding {
    /// The format's number of the algorithm.
    pub number: u8,
    /// What follows the superblock, after its own length: `struct z_erofs_lz4_cfgs` or that of another algorithm.
    pub settings: Vec<u8>,
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
    pub coding: Option<Coding>,
    /// Devices that hold data. A compressed image has none: its settings take the table's place.
    pub devices: Vec<DeviceSlot>,
}

impl Superblock {
    /// Block 0 of the image, checksum included, and those that the table of devices takes behind it.
    pub fn block(&self) -> Vec<u8> {
        let mut out = vec![0; OFFSET + LENGTH];
        let mut put = |at: usize, bytes: &[u8]| out[OFFSET + at..OFFSET + at + bytes.len()].copy_from_slice(bytes);
        put(field::MAGIC, &MAGIC.to_le_bytes());
        put(field::FEATURE_COMPAT, &COMPATIBLE.to_le_bytes());
        put(field::BLKSZBITS, &[BLOCK.trailing_zeros() as u8]);
        put(field::ROOT_NID, &self.root_nid.to_le_bytes());
        put(field::INOS, &self.inodes.to_le_bytes());
        put(field::EPOCH, &self.build_time.seconds.to_le_bytes());
        put(field::FIXED_NSEC, &self.build_time.nanoseconds.to_le_bytes());
        put(field::BLOCKS, &self.blocks.to_le_bytes());
        put(field::META_BLKADDR, &self.meta_block.to_le_bytes());
        put(field::XATTR_BLKADDR, &self.xattr_block.to_le_bytes());
        put(field::UUID, &self.uuid);
        let chunked = if self.chunked { CHUNKED } else { 0 };
        let compressed = if self.coding.is_some() { COMPRESSED } else { 0 };
        let devices = if self.devices.is_empty() { 0 } else { DEVICES };
        put(field::FEATURE_INCOMPAT, &(chunked | compressed | devices).to_le_bytes());
        if let Some(coding) = &self.coding {
            put(field::AVAILABLE_COMPR_ALGS, &(1u16 << coding.number).to_le_bytes());
            out.extend_from_slice(&(coding.settings.len() as u16).to_le_bytes());
            out.extend_from_slice(&coding.settings);
        } else if !self.devices.is_empty() {
            put(field::EXTRA_DEVICES, &(self.devices.len() as u16).to_le_bytes());
            put(field::DEVT_SLOTOFF, &(((OFFSET + LENGTH) / DeviceSlot::LENGTH) as u16).to_le_bytes());
            for slot in &self.devices {
                out.extend_from_slice(&slot.tag);
                out.extend_from_slice(&slot.blocks.to_le_bytes());
                out.extend_from_slice(&slot.mapped.to_le_bytes());
                out.extend_from_slice(&[0; 56]);
            }
        }
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        // The kernel's CRC32C is not inverted at its end.
        let checksum = !crc32c::crc32c(&out[OFFSET..BLOCK]);
        let at = OFFSET + field::CHECKSUM;
        out[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}
