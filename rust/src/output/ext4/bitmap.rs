//! Which blocks and inodes are in use: a bitmap of each for every group, and the group descriptors.
//!
//! Kernel documentation, ext4, "Block and inode Bitmaps". Blocks are handed out in rising order and inodes are numbered
//! from the first on, so both are known from how far that went.

use super::checksum::crc;
use super::layout::{AdjacentBlocks, BLOCK, GROUP_BLOCKS, Geometry, has_superblock};
use super::stream::Stream;
use super::superblock::{BLOCKS_UNUSED, GroupSummary, INODES_UNUSED, TABLE_ZEROED, descriptor};
use crate::error::Result;

/// What is in use.
pub(super) struct Use<'a> {
    /// All blocks before this one, and all with a fixed place.
    pub blocks: u64,
    /// All inodes up to this one.
    pub inodes: u32,
    /// Directories of each group.
    pub directories: &'a [u16],
}

/// Writes the bitmaps; returns the group descriptors and the number of free blocks.
///
/// # Errors
/// `io_error`.
pub(super) fn write_bitmaps(geometry: &Geometry, used: &Use, seed: u32, out: &mut Stream) -> Result<(Vec<u8>, u64)> {
    let per_group = u64::from(geometry.inodes_per_group);
    let last = geometry.groups.len() - 1;
    let (mut descriptors, mut free_blocks) = (Vec::new(), 0);
    let mut reserved = &geometry.reserved[..];
    for (number, place) in geometry.groups.iter().enumerate() {
        let run = geometry.group(number);
        while let Some((_, rest)) = reserved.split_first().filter(|(first, _)| first.start + first.length <= run.start)
        {
            reserved = rest;
        }
        let blocks = block_bitmap(run, used.blocks, reserved);
        let free = run.length - blocks.1;
        free_blocks += free;
        let inodes = u64::from(used.inodes).saturating_sub(number as u64 * per_group).min(per_group);
        let mut group = GroupSummary {
            free_blocks: free as u16,
            free_inodes: (per_group - inodes) as u16,
            directories: used.directories[number],
            flags: TABLE_ZEROED,
            ..GroupSummary::default()
        };
        // What readers take for granted of a group whose bitmap was not written.
        let copy = if has_superblock(number as u64) { 1 + geometry.descriptor_blocks } else { 0 };
        if number > 0 && number < last && run.start >= used.blocks && blocks.1 == copy {
            group.flags |= BLOCKS_UNUSED;
        } else {
            group.block_bitmap_sum = crc(seed, &blocks.0) as u16;
            out.put(place.block_bitmap * BLOCK as u64, &blocks.0)?;
        }
        if inodes == 0 {
            group.flags |= INODES_UNUSED;
        } else {
            let mut bitmap = Bitmap::new();
            bitmap.set(0, inodes);
            bitmap.set(per_group, GROUP_BLOCKS);
            group.inode_bitmap_sum = crc(seed, &bitmap.0[..per_group as usize / 8]) as u16;
            out.put(place.inode_bitmap * BLOCK as u64, &bitmap.0)?;
        }
        descriptors.extend(descriptor(number as u32, place, &group, seed));
    }
    Ok((descriptors, free_blocks))
}

struct Bitmap([u8; BLOCK]);

impl Bitmap {
    fn new() -> Self {
        Bitmap([0; BLOCK])
    }

    fn set(&mut self, from: u64, to: u64) {
        for bit in from..to {
            self.0[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }
}

/// The bitmap of one group and the number of its blocks in use: those before `used`, and the fixed ones, of which
/// `reserved` begins with the group's first.
fn block_bitmap(group: AdjacentBlocks, used: u64, reserved: &[AdjacentBlocks]) -> ([u8; BLOCK], u64) {
    let mut bitmap = Bitmap::new();
    let end = group.start + group.length;
    let inside = |block: u64| block.clamp(group.start, end) - group.start;
    bitmap.set(0, inside(used));
    for run in reserved.iter().take_while(|run| run.start < end) {
        bitmap.set(inside(run.start), inside(run.start + run.length));
    }
    let count = bitmap.0.iter().map(|byte| u64::from(byte.count_ones())).sum();
    bitmap.set(group.length, GROUP_BLOCKS);
    (bitmap.0, count)
}
