//! The data of a decoded layer: one file for each layer, in which every content begins at a block.
//!
//! The first block is left free: the file becomes an erofs image, which has its superblock there. Contents follow in the
//! order of the archive, each in whole blocks, the last one filled with zeros. Blocks of a sparse file that are all hole
//! are left out. So the layout is a function of the layer's entries alone, and an image of whole blocks can share them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::contents::{Content, Extent, LayerStore};
use crate::digest::KeptHasher;
use crate::entry::Metadata;
use crate::error::{Error, Result};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// A chunk of data of this size is not collected but written at once.
const DIRECT: usize = 1 << 16;

/// Where the data of one content stand among its own blocks.
#[derive(Debug, Default)]
pub struct Placement {
    /// Where the next data byte would go: in the file, and in its blocks.
    end: u64,
    stored: u64,
}

impl Placement {
    /// Data go on at `offset` of the file, not before where they ended: how many zeros come before them in the blocks.
    /// Then `self.stored` is where they stand.
    fn skip_to(&mut self, offset: u64) -> u64 {
        let zeros = if offset / BLOCK == self.end / BLOCK && !self.end.is_multiple_of(BLOCK) {
            // In the block that is open already.
            offset - self.end
        } else {
            self.stored.next_multiple_of(BLOCK) - self.stored + offset % BLOCK
        };
        self.end = offset;
        self.stored += zeros;
        zeros
    }

    fn add(&mut self, length: u64) {
        self.end += length;
        self.stored += length;
    }

    /// Gives each extent of a sparse file its place; they ascend and do not overlap. Returns the bytes of all blocks.
    pub fn of(extents: &mut [Extent]) -> u64 {
        let mut place = Placement::default();
        for extent in extents {
            place.skip_to(extent.offset);
            extent.stored = place.stored;
            place.add(extent.length);
        }
        place.stored.next_multiple_of(BLOCK)
    }
}

/// Bytes of the blocks that a content has in its layer's file.
pub fn length_of(content: &Content) -> u64 {
    match &content.extents {
        None => content.size.next_multiple_of(BLOCK),
        Some(extents) => extents.last().map_or(0, |last| last.stored + last.length).next_multiple_of(BLOCK),
    }
}

/// What became of a layer's data.
#[derive(Clone)]
pub struct BlockData {
    /// The file.
    pub file: Arc<File>,
    /// First byte after the data, a multiple of [`BLOCK`]; the first block counts.
    pub end: u64,
    /// The digest of all bytes from the second block on.
    pub hasher: KeptHasher,
    /// Bytes that the contents have in the archive, with their headers.
    pub archived: u64,
}

/// Makes a file that takes the place of one that cannot be written.
type Spare = Box<dyn FnOnce() -> Result<File> + Send>;

/// Takes the contents of one layer. [`Content::position`] is the byte of the file.
pub struct BlockLayer {
    file: Arc<File>,
    spare: Option<Spare>,
    spared: bool,
    layer: u32,
    /// Bytes not yet written; contents start at blocks, so that only the last block can be incomplete.
    pending: Vec<u8>,
    /// First byte that is not written.
    written: u64,
    hasher: KeptHasher,
    archived: u64,
    size: u64,
    start: u64,
    place: Placement,
    extents: Vec<Extent>,
    offset: u64,
}

impl BlockLayer {
    /// Writes to an empty file.
    pub fn new(file: File, layer: u32) -> Self {
        BlockLayer {
            file: Arc::new(file),
            spare: None,
            spared: false,
            layer,
            pending: Vec::with_capacity(BUFFER + BLOCK as usize),
            written: BLOCK,
            hasher: KeptHasher::default(),
            archived: 0,
            size: 0,
            start: 0,
            place: Placement::default(),
            extents: Vec::new(),
            offset: 0,
        }
    }

    /// Goes on in the file that `spare` makes, should the first one fail (the cache's disk is full).
    #[must_use]
    pub fn with_spare(self, spare: impl FnOnce() -> Result<File> + Send + 'static) -> Self {
        BlockLayer { spare: Some(Box::new(spare)), ..self }
    }

    /// Whether the data went into the spare file.
    pub fn is_spared(&self) -> bool {
        self.spared
    }

    /// First byte after all that was taken.
    pub fn reached(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Whether blocks cost less than twice what the archive has.
    pub fn is_compact(&self) -> bool {
        self.reached() <= 2 * self.archived + BLOCK
    }

    /// The complete data.
    pub fn into_data(self) -> BlockData {
        BlockData { end: self.reached(), file: self.file, hasher: self.hasher, archived: self.archived }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all_at(bytes, self.written) {
            let Some(spare) = self.spare.take() else {
                return Err(Error::io("cannot write the layer's data", &error));
            };
            self.move_to(spare()?)?;
            return self.write(bytes);
        }
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Copies what was written.
    fn move_to(&mut self, file: File) -> Result<()> {
        let (mut at, mut buffer) = (BLOCK, vec![0; BUFFER]);
        while at < self.written {
            let part = &mut buffer[..(self.written - at).min(BUFFER as u64) as usize];
            self.file.read_exact_at(part, at).map_err(|error| Error::io("cannot read the layer's data", &error))?;
            file.write_all_at(part, at).map_err(|error| Error::io("cannot write the layer's data", &error))?;
            at += part.len() as u64;
        }
        (self.file, self.spared) = (Arc::new(file), true);
        Ok(())
    }

    /// Writes the whole blocks of `pending`.
    fn flush(&mut self) -> Result<()> {
        let whole = self.pending.len() / BLOCK as usize * BLOCK as usize;
        if whole > 0 {
            let mut pending = std::mem::take(&mut self.pending);
            let written = self.write(&pending[..whole]);
            pending.copy_within(whole.., 0);
            pending.truncate(pending.len() - whole);
            self.pending = pending;
            written?;
        }
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        if bytes.len() >= DIRECT {
            // Complete the open block, then hand the caller's own bytes to the system.
            let open = self.pending.len() % BLOCK as usize;
            let (first, rest) = bytes.split_at(if open > 0 { BLOCK as usize - open } else { 0 });
            self.pending.extend_from_slice(first);
            self.flush()?;
            let (whole, rest) = rest.split_at(rest.len() / BLOCK as usize * BLOCK as usize);
            self.write(whole)?;
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn pad(&mut self) {
        self.pending.resize(self.pending.len().next_multiple_of(BLOCK as usize), 0);
    }
}

impl LayerStore for BlockLayer {
    fn begin(&mut self, _: &Metadata, size: u64) -> Result<()> {
        self.size = size;
        self.start = self.reached();
        self.place = Placement::default();
        self.extents.clear();
        self.offset = 0;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        match self.extents.last_mut() {
            Some(last) if last.offset + last.length == self.offset => last.length += length,
            _ => {
                let zeros = self.place.skip_to(self.offset);
                // Less than two blocks: what is all hole is left out.
                self.pending.resize(self.pending.len() + zeros as usize, 0);
                self.extents.push(Extent { offset: self.offset, length, stored: self.place.stored });
            }
        }
        self.append(bytes)?;
        self.place.add(length);
        self.offset += length;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.offset += length;
        Ok(())
    }

    fn end(&mut self) -> Result<Content> {
        self.pad();
        let data: u64 = self.extents.iter().map(|extent| extent.length).sum();
        self.archived += 512 + data.next_multiple_of(512);
        let extents = (data < self.offset).then(|| self.extents.as_slice().into());
        self.extents.clear();
        Ok(Content { layer: self.layer, position: self.start, size: self.offset, extents })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.pending = Vec::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::read_runs;
    use proptest::prelude::*;

    fn read(file: &File, content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xAA; content.size as usize];
        let read = read_runs(content, 0, &mut bytes, |at, part| {
            file.read_exact_at(part, content.position + at).map_err(|error| Error::io("read", &error))
        });
        assert_eq!(read.expect("read"), bytes.len());
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Contents of holes (even numbers) and data (odd ones), in pieces.
        #[test]
        fn what_goes_in_comes_out_in_whole_blocks(
            files in prop::collection::vec(prop::collection::vec((any::<bool>(), 0u64..9000), 0..6), 1..6)
        ) {
            let file = tempfile::tempfile().expect("a file");
            let mut layer = BlockLayer::new(file.try_clone().expect("cloned"), 3);
            let mut kept = Vec::new();
            for (serial, parts) in files.iter().enumerate() {
                let mut expected = Vec::new();
                layer.begin(&Metadata::default(), 0).expect("begun");
                for (index, &(hole, length)) in parts.iter().enumerate() {
                    if hole {
                        layer.hole(length).expect("taken");
                        expected.resize(expected.len() + length as usize, 0);
                    } else {
                        let bytes = vec![(serial * 16 + index + 1) as u8; length as usize];
                        for part in bytes.chunks(700) {
                            layer.data(part).expect("taken");
                        }
                        expected.extend_from_slice(&bytes);
                    }
                }
                kept.push((layer.end().expect("ended"), expected));
            }
            layer.finish().expect("finished");
            let data = layer.into_data();
            let mut at = BLOCK;
            for (content, expected) in &kept {
                prop_assert_eq!(&read(&file, content), expected);
                prop_assert_eq!(content.position, at);
                at += length_of(content);
                if let Some(extents) = &content.extents {
                    let mut again: Vec<Extent> = extents.iter().map(|run| Extent { stored: 0, ..*run }).collect();
                    prop_assert_eq!(Placement::of(&mut again), length_of(content));
                    prop_assert_eq!(&again[..], &extents[..]);
                    // No block that is all hole has a place.
                    let blocks: std::collections::BTreeSet<u64> = extents.iter()
                        .flat_map(|run| run.offset / BLOCK..(run.offset + run.length).div_ceil(BLOCK)).collect();
                    prop_assert_eq!(blocks.len() as u64 * BLOCK, length_of(content));
                }
            }
            prop_assert_eq!(data.end, at);
            let mut all = vec![0; (at - BLOCK) as usize];
            file.read_exact_at(&mut all, BLOCK).expect("read");
            let mut hasher = KeptHasher::default();
            hasher.update(&all);
            prop_assert_eq!(data.hasher.finish(), hasher.finish());
        }
    }
}
