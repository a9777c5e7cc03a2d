//! Directories: blocks of entries, each block searchable by itself.
//!
//! The kernel searches a directory by halving, first the blocks by their first names, then the names of a block. So all
//! names, `.` and `..` among them, stand in the order of their bytes.

use std::ops::Bound::{Excluded, Unbounded};

use crate::output::erofs::format::numbers::BLOCK;
use crate::tree::{Children, InodeId};

/// Bytes of an entry without its name.
const ENTRY: usize = 12;

/// A name of a directory, and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'t> {
    /// The name.
    pub name: &'t [u8],
    /// The inode.
    pub inode: InodeId,
}

/// All names of a directory in order, `.` and `..` included.
pub fn names<'t>(children: &'t Children, directory: InodeId, parent: InodeId) -> impl Iterator<Item = Name<'t>> {
    const DOT: &[u8] = b".";
    const DOTS: &[u8] = b"..";
    let range = move |from, to| children.range::<[u8], _>((from, to)).map(|(name, &inode)| Name { name, inode });
    range(Unbounded, Excluded(DOT))
        .chain([Name { name: DOT, inode: directory }])
        .chain(range(Excluded(DOT), Excluded(DOTS)))
        .chain([Name { name: DOTS, inode: parent }])
        .chain(range(Excluded(DOTS), Unbounded))
}

/// How much space a directory's entries take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks before the last.
    pub full: u64,
    /// Bytes of the last block.
    pub last: usize,
}

impl Shape {
    /// Measures a directory.
    pub fn of<'t>(names: impl Iterator<Item = Name<'t>>) -> Self {
        let mut shape = Shape { full: 0, last: 0 };
        for name in names {
            let size = ENTRY + name.name.len();
            if shape.last + size > BLOCK {
                shape = Shape { full: shape.full + 1, last: 0 };
            }
            shape.last += size;
        }
        shape
    }
}

/// Writes a directory block by block; all but the last are whole. `nid` gives an inode's number and file type.
pub fn write<'t>(
    names: impl Iterator<Item = Name<'t>>,
    nid: impl Fn(InodeId) -> (u64, u8),
    mut block: impl FnMut(&[u8]),
) {
    let mut held: Vec<Name<'t>> = Vec::new();
    let mut used = 0;
    let mut out = Vec::with_capacity(BLOCK);
    for name in names {
        let size = ENTRY + name.name.len();
        if used + size > BLOCK {
            encode(&held, &nid, &mut out);
            out.resize(BLOCK, 0);
            block(&out);
            held.clear();
            used = 0;
        }
        held.push(name);
        used += size;
    }
    encode(&held, &nid, &mut out);
    block(&out);
}

fn encode(names: &[Name<'_>], nid: impl Fn(InodeId) -> (u64, u8), out: &mut Vec<u8>) {
    out.clear();
    let mut offset = names.len() * ENTRY;
    for name in names {
        let (nid, kind) = nid(name.inode);
        out.extend_from_slice(&nid.to_le_bytes());
        out.extend_from_slice(&(offset as u16).to_le_bytes());
        out.extend_from_slice(&[kind, 0]);
        offset += name.name.len();
    }
    for name in names {
        out.extend_from_slice(name.name);
    }
}
