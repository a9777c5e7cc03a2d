//! Listings of directories: names in the order of their bytes, in groups that share a header.

use super::format::{Fields, METADATA, narrow};
use super::inode::{Listing, Type};
use super::metadata::{MetadataWriter, Position};
use crate::error::Result;

/// Most names below one header.
const GROUP: usize = 256;

/// Bytes before the name of an entry.
const ENTRY: usize = 8;

/// One name.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where its inode is.
    pub inode: Position,
    /// The inode's number.
    pub number: u32,
    /// The inode's type.
    pub kind: Type,
}

/// Writes a listing. The index says in which block of metadata a name is to be looked for.
///
/// # Errors
/// `output_unsupported`.
pub fn write_listing(names: &[Name<'_>], directories: &mut MetadataWriter) -> Result<Listing> {
    let start = directories.position();
    let mut listing = Listing { start, length: 0, index: Vec::new(), indexes: 0 };
    let mut indexed = start.block;
    let mut rest = names;
    while let [first, ..] = rest {
        let at = directories.position();
        if at.block != indexed && listing.indexes < u16::MAX {
            indexed = at.block;
            listing.indexes += 1;
            let offset = narrow(listing.length, "the names of a directory")?;
            let fields = Fields::default().u32(offset).u32(narrow(at.block, "the names of the image")?);
            listing.index.extend(fields.u32(first.name.len() as u32 - 1).bytes(first.name).0);
        }
        let group = rest.iter().take(GROUP).take_while(|name| distance(first, name).is_some());
        // A group is about a block at most, so that the index leads to every block.
        let mut length = 0;
        let group = group.take_while(|name| {
            length += ENTRY + name.name.len();
            length <= METADATA
        });
        let group = group.count();
        let (group, later) = rest.split_at(group);
        rest = later;
        let block = narrow(first.inode.block, "the inodes of the image")?;
        let mut bytes = Fields::default().u32(group.len() as u32 - 1).u32(block).u32(first.number);
        for name in group {
            let distance = distance(first, name).unwrap_or_default() as u16;
            bytes = bytes.u16(name.inode.offset).u16(distance).u16(name.kind as u16);
            bytes = bytes.u16(name.name.len() as u16 - 1).bytes(name.name);
        }
        listing.length += bytes.0.len() as u64;
        directories.write(&bytes.0)?;
    }
    Ok(listing)
}

/// How far the number of a name's inode is from the one that the header has; `None` when it needs another header.
fn distance(first: &Name<'_>, name: &Name<'_>) -> Option<i16> {
    let same = name.inode.block == first.inode.block;
    let distance = i64::from(name.number) - i64::from(first.number);
    i16::try_from(distance).ok().filter(|_| same)
}
