//! Directories: one block of entries, or blocks in the order of their names' hashes with an index before them.
//!
//! Kernel documentation, ext4, "Directory Entries". The kernel looks names up by hash, so a directory of 200,000 names
//! is as quick as a small one.

use super::checksum::{crc, inode_seed};
use super::hash::{Hash, half_md4};
use super::inode::Fields;
use super::layout::BLOCK;
use crate::tree::{Children, InodeId};

/// Each block of entries ends in an entry that holds its checksum.
const TAIL: usize = 12;
const USABLE: usize = BLOCK - TAIL;
const DOTS: usize = 24;
/// Offsets of the index entries, in the first block and in the others.
const ROOT_INDEX: usize = 32;
const NODE_INDEX: usize = 8;
const HALF_MD4: u8 = 1;

/// How many index entries a block holds, the first of which has no hash; eight bytes at the end hold the checksum.
const fn index_limit(offset: usize) -> usize {
    (BLOCK - offset - 8) / 8
}

fn entry_length(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

/// What a directory entry says of an inode: its number, and the number of its type.
pub(super) type EntryTarget = (u32, u8);

/// The shape of one directory's blocks.
pub(super) enum Shape<'t> {
    /// All entries in one block.
    Single(&'t Children),
    /// An index.
    Indexed(Index<'t>),
}

/// A directory's names by hash.
pub(super) struct Index<'t> {
    names: Vec<(Hash, &'t [u8], InodeId)>,
    /// For each block of entries, the first of its names.
    leaves: Vec<usize>,
}

impl<'t> Shape<'t> {
    /// Decides how `children` are written; `None` when they are too many for an index of two levels.
    pub fn new(children: &'t Children, seed: &[u32; 4]) -> Option<Self> {
        let length: usize = children.keys().map(|name| entry_length(name)).sum();
        if DOTS + length <= USABLE {
            return Some(Shape::Single(children));
        }
        let hashed = children.iter().map(|(name, &inode)| (half_md4(seed, name), &**name, inode));
        let mut names: Vec<_> = hashed.collect();
        names.sort_unstable_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        let (mut leaves, mut used) = (Vec::new(), USABLE);
        for (at, (_, name, _)) in names.iter().enumerate() {
            if used + entry_length(name) > USABLE {
                leaves.push(at);
                used = 0;
            }
            used += entry_length(name);
        }
        let index = Index { names, leaves };
        (index.nodes() <= index_limit(ROOT_INDEX)).then_some(Shape::Indexed(index))
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        match self {
            Shape::Single(_) => 1,
            Shape::Indexed(index) => (1 + index.nodes() + index.leaves.len()) as u64,
        }
    }

    /// Whether the inode is flagged as indexed.
    pub fn indexed(&self) -> bool {
        matches!(self, Shape::Indexed(_))
    }

    /// Hands all blocks to `emit`, in order.
    ///
    /// # Errors
    /// What `emit` returns.
    pub fn write<E>(
        &self,
        own: u32,
        parent: u32,
        file_system_seed: u32,
        target: impl Fn(InodeId) -> EntryTarget,
        mut emit: impl FnMut(&[u8; BLOCK]) -> Result<(), E>,
    ) -> Result<(), E> {
        let seed = inode_seed(file_system_seed, own);
        match self {
            Shape::Single(children) => {
                let mut block = EntryBlock::new();
                block.dots(own, parent);
                for (name, &inode) in *children {
                    block.push(name, target(inode));
                }
                emit(&block.finish(seed))
            }
            Shape::Indexed(index) => index.write(own, parent, seed, target, emit),
        }
    }
}

impl Index<'_> {
    /// Blocks of the index between the first and the leaves.
    fn nodes(&self) -> usize {
        match self.leaves.len() {
            few if few <= index_limit(ROOT_INDEX) => 0,
            many => many.div_ceil(index_limit(NODE_INDEX)),
        }
    }

    /// For each leaf its lowest hash, odd when names of that hash begin in the leaf before.
    fn bounds(&self) -> Vec<u32> {
        let bound = |&first: &usize| {
            let hash = self.names[first].0.0;
            hash | u32::from(first > 0 && self.names[first - 1].0.0 == hash)
        };
        self.leaves.iter().map(bound).collect()
    }

    fn write<E>(
        &self,
        own: u32,
        parent: u32,
        seed: u32,
        target: impl Fn(InodeId) -> EntryTarget,
        mut emit: impl FnMut(&[u8; BLOCK]) -> Result<(), E>,
    ) -> Result<(), E> {
        let nodes = self.nodes();
        let below: Vec<(u32, u32)> = self.bounds().into_iter().zip(1 + nodes as u32..).collect();
        let groups = below.chunks(index_limit(NODE_INDEX));
        let top: Vec<(u32, u32)> = match nodes {
            0 => below.clone(),
            _ => groups.clone().zip(1..).map(|(group, block)| (group[0].0, block)).collect(),
        };

        let mut root = EntryBlock::new();
        root.dots(own, parent);
        let root = &mut root.bytes;
        Fields(root).u16(16, (BLOCK - 12) as u16).bytes(28, &[HALF_MD4, 8, u8::from(nodes > 0), 0]);
        index_block(root, ROOT_INDEX, &top, seed);
        emit(root)?;
        for group in groups.take(nodes) {
            let mut node = [0; BLOCK];
            Fields(&mut node).u16(4, BLOCK as u16);
            index_block(&mut node, NODE_INDEX, group, seed);
            emit(&node)?;
        }
        for (at, &first) in self.leaves.iter().enumerate() {
            let end = self.leaves.get(at + 1).copied().unwrap_or(self.names.len());
            let mut block = EntryBlock::new();
            for &(_, name, inode) in &self.names[first..end] {
                block.push(name, target(inode));
            }
            emit(&block.finish(seed))?;
        }
        Ok(())
    }
}

/// Puts index entries (lowest hash, block) and the checksum into a block. The first entry's hash gives way to the
/// limit and the count.
fn index_block(block: &mut [u8; BLOCK], offset: usize, entries: &[(u32, u32)], seed: u32) {
    let (limit, mut at) = (index_limit(offset), offset);
    for &(hash, child) in entries {
        Fields(block).u32(at, hash).u32(at + 4, child);
        at += 8;
    }
    Fields(block).u16(offset, limit as u16).u16(offset + 2, entries.len() as u16);
    // The sum goes over the entries in use, then over the tail with the sum's own field as zero.
    let sum = crc(crc(seed, &block[..at]), &[0; 8]);
    Fields(block).u32(offset + limit * 8 + 4, sum);
}

/// Entries of one block, one after the other.
struct EntryBlock {
    bytes: [u8; BLOCK],
    used: usize,
    /// Where the last entry begins: it reaches to the tail in the end.
    last: usize,
}

impl EntryBlock {
    fn new() -> Self {
        EntryBlock { bytes: [0; BLOCK], used: 0, last: 0 }
    }

    fn dots(&mut self, own: u32, parent: u32) {
        self.push(b".", (own, 2));
        self.push(b"..", (parent, 2));
    }

    fn push(&mut self, name: &[u8], (inode, kind): EntryTarget) {
        let length = entry_length(name);
        self.last = self.used;
        Fields(&mut self.bytes[self.used..])
            .u32(0, inode)
            .u16(4, length as u16)
            .bytes(6, &[name.len() as u8, kind])
            .bytes(8, name);
        self.used += length;
    }

    fn finish(mut self, seed: u32) -> [u8; BLOCK] {
        let sum = crc(seed, {
            Fields(&mut self.bytes).u16(self.last + 4, (USABLE - self.last) as u16);
            &self.bytes[..USABLE]
        });
        Fields(&mut self.bytes).u16(USABLE + 4, TAIL as u16).bytes(USABLE + 7, &[0xDE]).u32(USABLE + 8, sum);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn equal_hashes_on_both_sides_of_a_border_are_marked() {
        let root = Tree::new().root();
        let names = [2, 4, 4, 4, 6, 8].map(|hash| ((hash, 0), &b"name"[..], root));
        let index = Index { names: names.to_vec(), leaves: vec![0, 2, 3, 4, 5] };
        assert_eq!(index.bounds(), [2, 4 | 1, 4 | 1, 6, 8]);
    }
}
