//! Where contents go in the image: which of them are equal, and where their blocks and their ends are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;

use super::store::{FinishedLayer, SquashfsStore};
use crate::contents::Content;
use crate::error::{Error, Result};
use crate::output::CHUNK;
use crate::output::file_range::copy_range;
use crate::tree::{InodeId, InodeKind, Tree};

/// Most files of one checksum and size that are compared byte by byte. More than these are likely an attempt to slow the
/// writer down, and are written without comparing.
const ALIKE: u8 = 8;

/// No content.
const NOT_HERE: u64 = u64::MAX;

/// Where contents are, by layer and position.
pub struct Placed {
    /// First block of each content; `NOT_HERE` for those that are not in the tree or that equal another.
    starts: Vec<Vec<u64>>,
    /// Fragment and offset of the ends of those.
    ends: Vec<Vec<(u32, u32)>>,
    /// Those that equal another one.
    twins: HashMap<(u32, u64), (u32, u64)>,
    /// Ends to be packed together, in the order of the tree.
    tails: Vec<InodeId>,
    /// What is copied: layer, place there, place in the image, length.
    copies: Vec<(u32, u64, u64, u64)>,
    /// Where the blocks of contents end.
    end: u64,
}

impl Placed {
    /// Finds places from `start` on for the contents of a tree, in the order of the tree: neighbours are read together,
    /// and where contents waited changes nothing.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(tree: &Tree, store: &SquashfsStore, start: u64) -> Result<Self> {
        let mut placed = Placed {
            starts: store.parts().map(|part| vec![NOT_HERE; part.records.len()]).collect(),
            ends: store.parts().map(|part| vec![(0, 0); part.records.len()]).collect(),
            twins: HashMap::new(),
            tails: Vec::new(),
            copies: Vec::new(),
            end: start,
        };
        let mut known = KnownContents::new();
        for step in tree.walk().filter(|step| step.first) {
            let InodeKind::File(content) = &tree.inode(step.inode).kind else { continue };
            let (layer, position) = (content.layer, content.position);
            // Two inodes may have one content.
            if content.size == 0 || placed.starts[layer as usize][position as usize] != NOT_HERE {
                continue;
            }
            if let Some(twin) = equal(store, &mut known, content)? {
                placed.twins.insert((layer, position), (twin.layer, twin.position));
                continue;
            }
            let (part, record) = store.record(content);
            let length = part.runs(record).iter().map(|run| run.stored()).sum();
            placed.starts[layer as usize][position as usize] = placed.end;
            placed.copy(layer, record.start, length);
            if store.tail(content) > 0 {
                placed.tails.push(step.inode);
            }
        }
        Ok(placed)
    }

    /// The next bytes of the image come from a layer's blocks.
    fn copy(&mut self, layer: u32, from: u64, length: u64) {
        if length == 0 {
            return;
        }
        let to = self.end;
        self.end += length;
        match self.copies.last_mut() {
            Some((last, start, _, before)) if *last == layer && *start + *before == from => *before += length,
            _ => self.copies.push((layer, from, to, length)),
        }
    }

    /// Where the blocks of contents end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Files whose ends are packed together, in the order in which they are.
    pub fn take_tails(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.tails)
    }

    /// Says where the end of a content went: a fragment, and the offset in it.
    pub fn set_end(&mut self, content: &Content, fragment: u32, offset: u32) {
        let (layer, position) = self.first(content);
        self.ends[layer as usize][position as usize] = (fragment, offset);
    }

    /// The content that has the bytes, of those that are equal.
    fn first(&self, content: &Content) -> (u32, u64) {
        let own = (content.layer, content.position);
        self.twins.get(&own).copied().unwrap_or(own)
    }

    /// Where a content's blocks begin, and fragment and offset of its end, of a file that is not empty.
    pub fn place(&self, content: &Content) -> (u64, (u32, u32)) {
        let (layer, position) = self.first(content);
        let (layer, position) = (layer as usize, position as usize);
        (self.starts[layer][position], self.ends[layer][position])
    }

    /// What is to be copied into the image: a layer, place there, place in the image, length.
    pub fn take_copies(&mut self) -> Vec<(u32, u64, u64, u64)> {
        std::mem::take(&mut self.copies)
    }
}

/// Copies blocks of contents from the layers into the image.
///
/// # Errors
/// `io_error`.
pub fn copy(store: &SquashfsStore, copies: &[(u32, u64, u64, u64)], image: &File) -> Result<()> {
    for &(layer, from, to, length) in copies {
        if let Some(data) = &store.part(layer).data {
            let (file, from) = data.place(from);
            copy_range(file, from, image, to, length).map_err(|error| Error::io("cannot write the image", &error))?;
        }
    }
    Ok(())
}

/// Contents by size and checksum, those that are alike by a number.
type KnownContents<'t> = HashMap<(u64, u32, u8), &'t Content>;

/// The content among those that are known that equals this one, which is known from now on.
fn equal<'t>(
    store: &SquashfsStore,
    known: &mut KnownContents<'t>,
    content: &'t Content,
) -> Result<Option<&'t Content>> {
    let (part, record) = store.record(content);
    for number in 0..ALIKE {
        let other = match known.entry((content.size, record.checksum, number)) {
            Entry::Vacant(free) => {
                free.insert(content);
                return Ok(None);
            }
            Entry::Occupied(known) => *known.get(),
        };
        let (other_part, other_record) = store.record(other);
        let length = part.runs(record).iter().map(|run| run.stored()).sum();
        if part.runs(record) == other_part.runs(other_record)
            && same_data(part, record.start, other_part, other_record.start, length)?
            && same_tail(store, content, other)?
        {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// Whether the blocks of two files are the same: what is compressed alike is the same.
fn same_data(one: &FinishedLayer, mut at: u64, other: &FinishedLayer, mut there: u64, mut length: u64) -> Result<bool> {
    let (Some(one), Some(other)) = (&one.data, &other.data) else { return Ok(length == 0) };
    let (mut bytes, mut others) =
        (vec![0; length.min(CHUNK as u64) as usize], vec![0; length.min(CHUNK as u64) as usize]);
    while length > 0 {
        let part = length.min(CHUNK as u64) as usize;
        one.read(&mut bytes[..part], at)?;
        other.read(&mut others[..part], there)?;
        if bytes[..part] != others[..part] {
            return Ok(false);
        }
        (at, there, length) = (at + part as u64, there + part as u64, length - part as u64);
    }
    Ok(true)
}

fn same_tail(store: &SquashfsStore, one: &Content, other: &Content) -> Result<bool> {
    let length = store.tail(one);
    let (mut bytes, mut others) = (vec![0; length], vec![0; length]);
    if length > 0 {
        store.read_tail(one, 0, &mut bytes)?;
        store.read_tail(other, 0, &mut others)?;
    }
    Ok(bytes == others)
}
