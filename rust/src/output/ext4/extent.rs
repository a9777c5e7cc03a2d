//! Extent trees: which blocks of the image hold which blocks of a file (kernel documentation, ext4, "Extent Tree").

use super::checksum::{crc, inode_seed};
use super::inode::Fields;
use super::layout::BLOCK;
use crate::contents::Content;

const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Entries of the root, inside the inode.
const ROOT_ENTRIES: usize = 4;
/// Entries of a tree block, which ends in four bytes of checksum.
const BLOCK_ENTRIES: usize = (BLOCK - HEADER - 4) / ENTRY;
const MAGIC: u16 = 0xF30A;
/// Most blocks of one extent.
pub(super) const EXTENT_BLOCKS: u64 = 1 << 15;

/// Adjacent blocks of a file in adjacent blocks of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub logical: u32,
    pub physical: u64,
    /// At most [`EXTENT_BLOCKS`].
    pub length: u32,
}

/// A node's entry: the first block of the file that it is about, where that leads, and the length in a leaf.
type ExtentEntry = (u32, u64, u16);

fn node(bytes: &mut [u8], capacity: usize, depth: u16, entries: &[ExtentEntry]) {
    let mut fields = Fields(bytes);
    fields.u16(0, MAGIC).u16(2, entries.len() as u16).u16(4, capacity as u16).u16(6, depth);
    for (index, &(logical, physical, length)) in entries.iter().enumerate() {
        let at = HEADER + index * ENTRY;
        let (low, high) = (physical as u32, (physical >> 32) as u16);
        fields.u32(at, logical);
        if depth == 0 {
            fields.u16(at + 4, length).u16(at + 6, high).u32(at + 8, low);
        } else {
            fields.u32(at + 4, low).u16(at + 8, high);
        }
    }
}

/// Blocks of the tree for `extents` extents, the root inside the inode not counted.
pub(super) fn tree_blocks(extents: u64) -> u64 {
    let (mut blocks, mut level) = (0, extents);
    while level > ROOT_ENTRIES as u64 {
        level = level.div_ceil(BLOCK_ENTRIES as u64);
        blocks += level;
    }
    blocks
}

/// Builds the tree over `mappings`, in order. Every block but the root comes from `allocate` and goes to `emit`.
///
/// # Errors
/// What `allocate` and `emit` return.
pub(super) fn build<E>(
    mappings: &[Mapping],
    inode: u32,
    file_system_seed: u32,
    mut allocate: impl FnMut() -> Result<u64, E>,
    mut emit: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<[u8; 60], E> {
    let seed = inode_seed(file_system_seed, inode);
    let mut level: Vec<ExtentEntry> = mappings.iter().map(|it| (it.logical, it.physical, it.length as u16)).collect();
    let mut depth = 0;
    while level.len() > ROOT_ENTRIES {
        let mut above = Vec::with_capacity(level.len().div_ceil(BLOCK_ENTRIES));
        for entries in level.chunks(BLOCK_ENTRIES) {
            let mut bytes = [0; BLOCK];
            node(&mut bytes, BLOCK_ENTRIES, depth, entries);
            let sum = crc(seed, &bytes[..BLOCK - 4]);
            Fields(&mut bytes).u32(BLOCK - 4, sum);
            let block = allocate()?;
            emit(block, &bytes)?;
            above.push((entries[0].0, block, 0));
        }
        level = above;
        depth += 1;
    }
    let mut root = [0; 60];
    node(&mut root, ROOT_ENTRIES, depth, &level);
    Ok(root)
}

/// The blocks of a file that hold any data, as first block and number, ascending and not adjacent.
pub(super) fn data_blocks(content: &Content) -> impl Iterator<Item = (u64, u64)> + '_ {
    let block = BLOCK as u64;
    let mut runs = content.runs().filter(|run| run.length > 0).peekable();
    std::iter::from_fn(move || {
        let run = runs.next()?;
        let (first, mut end) = (run.offset / block, (run.offset + run.length).div_ceil(block));
        while let Some(next) = runs.next_if(|next| next.offset / block <= end) {
            end = end.max((next.offset + next.length).div_ceil(block));
        }
        Some((first, end - first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Extent;

    #[test]
    fn runs_become_whole_blocks() {
        let ranges = |size, runs: &[(u64, u64)]| {
            let extents = runs.iter().map(|&(offset, length)| Extent { offset, length, stored: 0 }).collect();
            let content = Content { layer: 0, position: 0, size, extents: Some(extents) };
            data_blocks(&content).collect::<Vec<_>>()
        };
        assert_eq!(ranges(9000, &[]), []);
        assert_eq!(ranges(9000, &[(8999, 1)]), [(2, 1)]);
        assert_eq!(ranges(50_000, &[(0, 1), (4095, 1), (8191, 2), (40_960, 1)]), [(0, 3), (10, 1)]);
        assert_eq!(ranges(50_000, &[(0, 1), (4096, 1), (12_288, 1)]), [(0, 2), (3, 1)]);
        let dense = Content { layer: 0, position: 0, size: 4097, extents: None };
        assert_eq!(data_blocks(&dense).collect::<Vec<_>>(), [(0, 2)]);
        let empty = Content { layer: 0, position: 0, size: 0, extents: None };
        assert_eq!(data_blocks(&empty).count(), 0);
    }

    #[test]
    fn the_count_of_tree_blocks_is_what_is_built() {
        for count in [0, 1, 4, 5, 340, 341, 1360, 1361, 500_000] {
            let mappings: Vec<Mapping> =
                (0..count).map(|it| Mapping { logical: it * 2, physical: 7, length: 1 }).collect();
            let mut built = 0;
            let allocate = || {
                built += 1;
                Ok::<u64, ()>(built)
            };
            build(&mappings, 12, 0, allocate, |_, _| Ok(())).expect("nothing fails");
            assert_eq!(built, tree_blocks(u64::from(count)), "{count}");
        }
    }
}
