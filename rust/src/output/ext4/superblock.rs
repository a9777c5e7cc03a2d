//! The superblock, the group descriptors and the superblock of the journal (kernel documentation, ext4, "Super Block",
//! "Block Group Descriptors", "Journal (jbd2)").

use super::checksum::crc;
use super::inode::Fields;
use super::layout::{BLOCK, FLEX_LOG, GROUP_BLOCKS, Geometry, Group, INODE};

/// The inode of the journal.
pub(super) const JOURNAL_INODE: u32 = 8;
/// The first inode that is not reserved.
pub(super) const FIRST_INODE: u32 = 11;

const HAS_JOURNAL: u32 = 0x4;
const EXT_ATTR: u32 = 0x8;
const DIR_INDEX: u32 = 0x20;

const FILETYPE: u32 = 0x2;
const EXTENTS: u32 = 0x40;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;

const SPARSE_SUPER: u32 = 0x1;
const LARGE_FILE: u32 = 0x2;
const HUGE_FILE: u32 = 0x8;
const DIR_NLINK: u32 = 0x20;
const EXTRA_ISIZE: u32 = 0x40;
const METADATA_CSUM: u32 = 0x400;

const SIGNED_HASH: u32 = 1;
const HALF_MD4: u8 = 1;
/// Access lists and user attributes are on unless a mount says otherwise.
const XATTR_AND_ACL: u32 = 0xC;

/// No inode of the group is in use, so its bitmap was not written.
pub(super) const INODES_UNUSED: u16 = 0x1;
/// No block of the group is in use but the fixed ones, so its bitmap was not written.
pub(super) const BLOCKS_UNUSED: u16 = 0x2;
/// The inode table is zero where it is not in use.
pub(super) const TABLE_ZEROED: u16 = 0x4;

/// What the superblock says that the geometry does not.
pub(super) struct Summary {
    pub uuid: [u8; 16],
    pub hash_seed: [u32; 4],
    /// Seconds since 1970 that stand for the time of creation.
    pub created: u32,
    pub free_blocks: u64,
    pub free_inodes: u32,
    /// Whether any attribute's value has an inode of its own.
    pub outside_values: bool,
    /// The journal's map of blocks and its size in bytes.
    pub journal: Option<([u8; 60], u64)>,
}

/// The 1024 bytes of the superblock, or of its copy in `group`.
pub(super) fn superblock(geometry: &Geometry, summary: &Summary, group: usize) -> [u8; 1024] {
    let mut bytes = [0; 1024];
    let mut fields = Fields(&mut bytes);
    let journal = if summary.journal.is_some() { HAS_JOURNAL } else { 0 };
    let outside = if summary.outside_values { EA_INODE } else { 0 };
    fields
        .u32(0x00, geometry.inodes())
        .u32(0x04, geometry.blocks as u32)
        .u32(0x0C, summary.free_blocks as u32)
        .u32(0x10, summary.free_inodes)
        .u32(0x18, BLOCK.trailing_zeros() - 10)
        .u32(0x1C, BLOCK.trailing_zeros() - 10)
        .u32(0x20, GROUP_BLOCKS as u32)
        .u32(0x24, GROUP_BLOCKS as u32)
        .u32(0x28, geometry.inodes_per_group)
        .u32(0x30, summary.created)
        .u16(0x36, u16::MAX)
        .u16(0x38, 0xEF53)
        .u16(0x3A, 1)
        .u16(0x3C, 1)
        .u32(0x40, summary.created)
        .u32(0x4C, 1)
        .u32(0x54, FIRST_INODE)
        .u16(0x58, INODE as u16)
        .u16(0x5A, group as u16)
        .u32(0x5C, EXT_ATTR | DIR_INDEX | journal)
        .u32(0x60, FILETYPE | EXTENTS | FLEX_BG | outside)
        .u32(0x64, SPARSE_SUPER | LARGE_FILE | HUGE_FILE | DIR_NLINK | EXTRA_ISIZE | METADATA_CSUM)
        .bytes(0x68, &summary.uuid);
    for (index, word) in summary.hash_seed.into_iter().enumerate() {
        fields.u32(0xEC + 4 * index, word);
    }
    fields
        .bytes(0xFC, &[HALF_MD4])
        .u32(0x100, XATTR_AND_ACL)
        .u32(0x108, summary.created)
        .u16(0x15C, 32)
        .u16(0x15E, 32)
        .u32(0x160, SIGNED_HASH)
        .bytes(0x174, &[FLEX_LOG, 1])
        .u32(0x248, (geometry.overhead() + summary.journal.map_or(0, |(_, size)| size / BLOCK as u64)) as u32);
    if let Some((map, size)) = &summary.journal {
        // A copy of the journal's inode, for a check that finds the inode itself damaged.
        fields.u32(0xE0, JOURNAL_INODE).bytes(0xFD, &[1]).bytes(0x10C, map);
        fields.u32(0x10C + 60, (size >> 32) as u32).u32(0x10C + 64, *size as u32);
    }
    let sum = crc(!0, &bytes[..1020]);
    Fields(&mut bytes).u32(1020, sum);
    bytes
}

/// What a group descriptor says that the geometry does not.
#[derive(Debug, Default)]
pub(super) struct GroupSummary {
    pub free_blocks: u16,
    pub free_inodes: u16,
    pub directories: u16,
    pub flags: u16,
    pub block_bitmap_sum: u16,
    pub inode_bitmap_sum: u16,
}

/// The 32 bytes of the descriptor of group `number`.
pub(super) fn descriptor(number: u32, place: &Group, group: &GroupSummary, file_system_seed: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    Fields(&mut bytes)
        .u32(0x00, place.block_bitmap as u32)
        .u32(0x04, place.inode_bitmap as u32)
        .u32(0x08, place.inode_table as u32)
        .u16(0x0C, group.free_blocks)
        .u16(0x0E, group.free_inodes)
        .u16(0x10, group.directories)
        .u16(0x12, group.flags)
        .u16(0x18, group.block_bitmap_sum)
        .u16(0x1A, group.inode_bitmap_sum)
        // Inodes are used from the first on, so all free ones are behind the last used one.
        .u16(0x1C, group.free_inodes);
    let sum = crc(crc(file_system_seed, &number.to_le_bytes()), &bytes);
    Fields(&mut bytes).u16(0x1E, sum as u16);
    bytes
}

/// The first block of an empty journal of `blocks` blocks; the only structure whose numbers are big-endian.
pub(super) fn journal_superblock(blocks: u32, uuid: &[u8; 16]) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let words = [(0x00, 0xC03B_3998), (0x04, 4), (0x0C, BLOCK as u32), (0x10, blocks), (0x14, 1), (0x18, 1), (0x40, 1)];
    for (offset, word) in words {
        Fields(&mut bytes).bytes(offset, &word.to_be_bytes());
    }
    Fields(&mut bytes).bytes(0x30, uuid);
    bytes
}

/// Blocks of a journal for a file system of `blocks` blocks, as mke2fs chooses.
pub(super) fn journal_blocks(blocks: u64) -> u64 {
    match blocks {
        0..32_768 => 1024,
        32_768..262_144 => 4096,
        262_144..524_288 => 8192,
        524_288..4_194_304 => 16_384,
        4_194_304..8_388_608 => 32_768,
        8_388_608..16_777_216 => 65_536,
        16_777_216..33_554_432 => 131_072,
        _ => 262_144,
    }
}
