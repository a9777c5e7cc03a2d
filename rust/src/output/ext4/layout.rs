//! Where everything stands: block groups, their fixed metadata, and the allocation of all other blocks.
//!
//! Kernel documentation, ext4, "Layout", "Flexible Block Groups", "Special inodes". The bitmaps and inode tables of 16
//! groups stand together at the start of the first; everything else is handed out in rising order around them, so the
//! blocks in use are the fixed ones and one prefix, and no map of blocks is ever kept.

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// Blocks of a group: what one block of bitmap describes.
pub(super) const GROUP_BLOCKS: u64 = 8 * BLOCK as u64;
/// Bytes of an inode.
pub(super) const INODE: usize = 256;
/// Most inodes of a group: what one block of bitmap describes.
const GROUP_INODES: u64 = 8 * BLOCK as u64;
const INODES_PER_BLOCK: u64 = (BLOCK / INODE) as u64;
const DESCRIPTOR: u64 = 32;
/// The logarithm of the groups whose metadata stand together.
pub(super) const FLEX_LOG: u8 = 4;
/// A last group of fewer blocks than this beyond its own metadata is not worth having.
const LEAST_GROUP: u64 = 64;

/// Adjacent blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdjacentBlocks {
    pub start: u64,
    pub length: u64,
}

/// Where the metadata of one group stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
}

/// The fixed part of the file system.
#[derive(Debug)]
pub(super) struct Geometry {
    pub blocks: u64,
    pub inodes_per_group: u32,
    /// Blocks of the group descriptors, after each superblock.
    pub descriptor_blocks: u64,
    pub groups: Vec<Group>,
    /// All blocks with a fixed place, ascending, none adjacent to another.
    pub reserved: Vec<AdjacentBlocks>,
}

/// Whether a group has a copy of the superblock (`sparse_super`): 0, 1 and the powers of 3, 5 and 7.
pub(super) fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut rest = group;
        while rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group < 2 || [3, 5, 7].into_iter().any(power_of)
}

fn descriptor_blocks(groups: u64) -> u64 {
    (groups * DESCRIPTOR).div_ceil(BLOCK as u64)
}

/// The number of blocks nearest to `blocks` whose last group is worth having: fewer, or more when `up`.
pub(super) fn whole_groups(blocks: u64, up: bool) -> u64 {
    let (groups, last) = (blocks.div_ceil(GROUP_BLOCKS), blocks % GROUP_BLOCKS);
    let least = LEAST_GROUP + descriptor_blocks(groups);
    match () {
        () if last == 0 || last >= least => blocks,
        () if up || groups == 1 => blocks - last + least,
        () => blocks - last,
    }
}

/// The fewest blocks that have room for the tables of `inodes` inodes.
pub(super) fn least_blocks(inodes: u64) -> u64 {
    whole_groups((inodes.div_ceil(GROUP_INODES) - 1) * GROUP_BLOCKS + 1, true)
}

impl Geometry {
    /// Lays out `blocks` blocks with room for `inodes` inodes; `None` when the metadata alone do not fit.
    pub fn new(blocks: u64, inodes: u64) -> Option<Geometry> {
        let count = blocks.div_ceil(GROUP_BLOCKS);
        if count == 0 {
            return None;
        }
        let inodes_per_group = inodes.div_ceil(count).next_multiple_of(INODES_PER_BLOCK);
        if inodes_per_group > GROUP_INODES {
            return None;
        }
        let table_blocks = inodes_per_group / INODES_PER_BLOCK;
        let descriptor_blocks = descriptor_blocks(count);
        let copies = (0..count).filter(|&group| has_superblock(group));
        let mut reserved: Vec<AdjacentBlocks> =
            copies.map(|group| AdjacentBlocks { start: group * GROUP_BLOCKS, length: 1 + descriptor_blocks }).collect();

        let mut groups: Vec<Group> = Vec::with_capacity(count as usize);
        let mut fixed: Vec<AdjacentBlocks> = Vec::new();
        for leader in (0..count).step_by(1 << FLEX_LOG) {
            let members = (count - leader).min(1 << FLEX_LOG);
            let mut place = MetadataRoom { next: leader * GROUP_BLOCKS, reserved: &reserved };
            let (block_bitmaps, inode_bitmaps) = (place.adjacent(members), place.adjacent(members));
            fixed.extend([block_bitmaps, inode_bitmaps].map(|start| AdjacentBlocks { start, length: members }));
            for member in 0..members {
                let inode_table = place.adjacent(table_blocks);
                fixed.push(AdjacentBlocks { start: inode_table, length: table_blocks });
                groups.push(Group {
                    block_bitmap: block_bitmaps + member,
                    inode_bitmap: inode_bitmaps + member,
                    inode_table,
                });
            }
        }
        reserved.extend(fixed);
        reserved.sort_unstable_by_key(|run| run.start);
        let mut merged: Vec<AdjacentBlocks> = Vec::with_capacity(reserved.len());
        for run in reserved {
            match merged.last_mut() {
                Some(last) if last.start + last.length == run.start => last.length += run.length,
                _ => merged.push(run),
            }
        }
        if merged.last().is_some_and(|last| last.start + last.length > blocks) {
            return None;
        }
        let inodes_per_group = inodes_per_group as u32;
        Some(Geometry { blocks, inodes_per_group, descriptor_blocks, groups, reserved: merged })
    }

    /// Number of inodes.
    pub fn inodes(&self) -> u32 {
        self.inodes_per_group * self.groups.len() as u32
    }

    /// Blocks with a fixed place.
    pub fn overhead(&self) -> u64 {
        self.reserved.iter().map(|run| run.length).sum()
    }

    /// The blocks of a group.
    pub fn group(&self, group: usize) -> AdjacentBlocks {
        let start = group as u64 * GROUP_BLOCKS;
        AdjacentBlocks { start, length: GROUP_BLOCKS.min(self.blocks - start) }
    }

    /// The group of an inode.
    pub fn group_of(&self, inode: u32) -> usize {
        ((inode - 1) / self.inodes_per_group) as usize
    }

    /// Byte offset of an inode in the image.
    pub fn inode_offset(&self, inode: u32) -> u64 {
        let index = u64::from((inode - 1) % self.inodes_per_group);
        self.groups[self.group_of(inode)].inode_table * BLOCK as u64 + index * INODE as u64
    }
}

/// Finds room for metadata of one flexible group, around the superblocks' copies.
struct MetadataRoom<'a> {
    next: u64,
    reserved: &'a [AdjacentBlocks],
}

impl MetadataRoom<'_> {
    fn adjacent(&mut self, length: u64) -> u64 {
        let from = self.reserved.partition_point(|run| run.start + run.length <= self.next);
        for run in &self.reserved[from..] {
            if self.next + length <= run.start {
                break;
            }
            self.next = self.next.max(run.start + run.length);
        }
        let start = self.next;
        self.next += length;
        start
    }
}

/// Hands out blocks in rising order, around the reserved ones.
#[derive(Clone, Debug)]
pub(super) struct Allocator<'a> {
    next: u64,
    end: u64,
    reserved: &'a [AdjacentBlocks],
}

impl<'a> Allocator<'a> {
    /// Over all blocks of `geometry`.
    pub fn new(geometry: &'a Geometry) -> Self {
        Allocator { next: 0, end: geometry.blocks, reserved: &geometry.reserved }
    }

    /// Every block before this one is in use.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next adjacent blocks, at most `most`; `None` when the file system is full.
    pub fn take(&mut self, most: u64) -> Option<AdjacentBlocks> {
        while let Some((first, rest)) = self.reserved.split_first() {
            if self.next < first.start {
                break;
            }
            self.next = self.next.max(first.start + first.length);
            self.reserved = rest;
        }
        let limit = self.reserved.first().map_or(self.end, |run| run.start);
        let length = most.min(limit.saturating_sub(self.next));
        let start = self.next;
        self.next += length;
        (length > 0).then_some(AdjacentBlocks { start, length })
    }

    /// Goes past `count` blocks.
    pub fn skip(&mut self, mut count: u64) -> Option<()> {
        while count > 0 {
            count -= self.take(count)?.length;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_sparse() {
        let groups: Vec<u64> = (0..400).filter(|&group| has_superblock(group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn fixed_blocks_never_overlap_and_lie_inside() {
        for (blocks, inodes) in [(64, 16), (4096, 1000), (32_768, 32_768), (40_000, 65_536), (700_000, 500_000)] {
            let geometry = Geometry::new(blocks, inodes).expect("it fits");
            let table = u64::from(geometry.inodes_per_group) / INODES_PER_BLOCK;
            let mut all: Vec<AdjacentBlocks> = Vec::new();
            for group in &geometry.groups {
                all.push(AdjacentBlocks { start: group.block_bitmap, length: 1 });
                all.push(AdjacentBlocks { start: group.inode_bitmap, length: 1 });
                all.push(AdjacentBlocks { start: group.inode_table, length: table });
            }
            for group in (0..geometry.groups.len() as u64).filter(|&group| has_superblock(group)) {
                all.push(AdjacentBlocks { start: group * GROUP_BLOCKS, length: 1 + geometry.descriptor_blocks });
            }
            all.sort_unstable_by_key(|run| run.start);
            assert!(all.windows(2).all(|pair| pair[0].start + pair[0].length <= pair[1].start), "{blocks}");
            assert_eq!(all.iter().map(|run| run.length).sum::<u64>(), geometry.overhead());
            assert!(all.last().is_some_and(|run| run.start + run.length <= blocks));
            assert!(u64::from(geometry.inodes()) >= inodes);
        }
    }

    #[test]
    fn the_allocator_gives_every_free_block_once() {
        let geometry = Geometry::new(150_000, 90_000).expect("it fits");
        let mut allocator = Allocator::new(&geometry);
        let (mut taken, mut most) = (Vec::new(), 1);
        while let Some(run) = allocator.take(most) {
            taken.push(run);
            most = most * 7 % 4093 + 1;
        }
        assert_eq!(taken.iter().map(|run| run.length).sum::<u64>() + geometry.overhead(), geometry.blocks);
        taken.extend(&geometry.reserved);
        taken.sort_unstable_by_key(|run| run.start);
        assert!(taken.windows(2).all(|pair| pair[0].start + pair[0].length == pair[1].start));
        assert!(allocator.skip(1).is_none());
    }

    #[test]
    fn metadata_that_do_not_fit_are_noticed() {
        assert!(Geometry::new(64, 2000).is_none());
        assert!(Geometry::new(GROUP_BLOCKS, GROUP_INODES + 1).is_none());
        assert_eq!(whole_groups(GROUP_BLOCKS + 3, true), GROUP_BLOCKS + 65);
        assert_eq!(whole_groups(GROUP_BLOCKS + 3, false), GROUP_BLOCKS);
        assert_eq!(whole_groups(3, false), 65);
        assert!(Geometry::new(least_blocks(1_000_000), 1_000_000).is_none_or(|it| it.inodes() >= 1_000_000));
    }
}
