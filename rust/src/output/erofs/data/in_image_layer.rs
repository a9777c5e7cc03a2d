//! The data of one layer on their way into the image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::file_data::whole_blocks;
use super::store::{ErofsStore, PackedPosition, TAIL_UNIT, image_error};
use crate::contents::{Content, Extents, LayerStore, Store, take_through_memory};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::output::erofs::format::numbers::{BLOCK, EXTENDED, blocks};
use crate::output::erofs::format::xattr;
use crate::output::file_range::copy_range;
use crate::output::tails::Tails;
use crate::spool::unnamed_file;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// A chunk of data of this size is not collected but written at once.
const DIRECT: usize = 1 << 16;

impl Store for Arc<ErofsStore> {
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        Ok(Box::new(ErofsLayer {
            store: Arc::clone(self),
            index,
            base: None,
            ahead: None,
            pending: Vec::with_capacity(BUFFER + BLOCK),
            written: 0,
            tails: Tails::default(),
            size: 0,
            room: 0,
            start: 0,
            hole: 0,
            extents: Extents::default(),
        }))
    }

    fn shares(&self) -> bool {
        !self.inline_tails()
    }

    fn spare(&self) -> Result<File> {
        unnamed_file(self.folder())
    }

    fn share(&self, index: u32, data: &Arc<File>, end: u64) -> Result<()> {
        let count = end / BLOCK as u64 - 1;
        self.set_shared(index, data);
        let (ready, place) = self.complete(index, count, true);
        if let Some(base) = place {
            self.take_in(index, base, count)?;
        }
        self.take_all_in(ready)
    }

    fn shared(&self, content: Content) -> Result<Content> {
        let block = u32::try_from((content.position / BLOCK as u64).saturating_sub(1)).ok();
        let position = block.and_then(|block| PackedPosition { block, tail: None }.encode()).ok_or_else(too_large)?;
        let extents = whole_blocks(&content).and_then(|content| content.extents);
        Ok(Content { position, extents, ..content })
    }

    fn expect(&self, index: u32, contents: &mut dyn Iterator<Item = Result<(Metadata, Content)>>) -> Result<()> {
        let mut count = 0;
        for content in contents {
            let (metadata, content) = content?;
            count += match whole_blocks(&content) {
                Some(sparse) => sparse.runs().map(|run| blocks(run.length)).sum(),
                None if (1..=room(&metadata) as u64).contains(&(content.size % BLOCK as u64)) => {
                    content.size / BLOCK as u64
                }
                None => blocks(content.size),
            };
        }
        let (ready, _) = self.complete(index, count, false);
        self.take_all_in(ready)
    }
}

/// Longest tail that surely fits behind an inode.
fn room(metadata: &Metadata) -> usize {
    BLOCK.saturating_sub(EXTENDED + xattr::bound(metadata))
}

fn too_large() -> Error {
    Error::new(Code::OutputUnsupported, "the layer is too large for an erofs image (16 TiB)")
}

/// Takes the contents of one layer.
struct ErofsLayer {
    store: Arc<ErofsStore>,
    index: u32,
    /// First block in the image, once it is known here and everything before is in the image.
    base: Option<u64>,
    /// Takes blocks, at offsets counted from the layer's first, until the base is known.
    ahead: Option<File>,
    /// Bytes not yet written. FileData start at blocks, so only its last block can be incomplete.
    pending: Vec<u8>,
    /// Blocks of this layer written.
    written: u64,
    tails: Tails,
    /// Apparent size of the current file.
    size: u64,
    /// Longest tail that surely fits behind its inode.
    room: usize,
    /// First block of the current file.
    start: u64,
    /// Bytes of a hole that has not ended yet.
    hole: u64,
    extents: Extents,
}

impl ErofsLayer {
    /// Writes the whole blocks of `pending`.
    fn flush(&mut self) -> Result<()> {
        let whole = self.pending.len() / BLOCK * BLOCK;
        if whole > 0 {
            let pending = std::mem::take(&mut self.pending);
            self.write(&pending[..whole])?;
            self.pending = pending;
            self.pending.copy_within(whole.., 0);
            self.pending.truncate(self.pending.len() - whole);
        }
        Ok(())
    }

    /// Writes whole blocks.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (to, at) = self.destination()?;
        to.write_all_at(bytes, at).map_err(|error| image_error(&error))?;
        self.written += bytes.len() as u64 / BLOCK as u64;
        Ok(())
    }

    /// Where the next block goes: into the image when this layer's place in it is known, else into a file of its own.
    fn destination(&mut self) -> Result<(&File, u64)> {
        if self.base.is_none() {
            let known = self.store.base(self.index);
            if let Some(base) = known {
                self.enter(base)?;
            }
        }
        let block = BLOCK as u64;
        match self.base {
            Some(base) => Ok((self.store.image(), (base + self.written) * block)),
            None => {
                let ahead = match self.ahead.take() {
                    Some(ahead) => ahead,
                    None => self.store.ahead(self.index).create()?,
                };
                Ok((self.ahead.insert(ahead), self.written * block))
            }
        }
    }

    /// The base is known: what was written ahead goes into the image.
    fn enter(&mut self, base: u64) -> Result<()> {
        if self.ahead.take().is_some() {
            self.store.take_in(self.index, base, self.written)?;
        }
        self.base = Some(base);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.extents.data(bytes.len() as u64);
        let mut bytes = bytes;
        if bytes.len() >= DIRECT {
            // Complete the open block, then hand the caller's own bytes to the system.
            let open = self.pending.len() % BLOCK;
            let (first, rest) = bytes.split_at(if open > 0 { BLOCK - open } else { 0 });
            self.pending.extend_from_slice(first);
            self.flush()?;
            let (whole, rest) = rest.split_at(rest.len() / BLOCK * BLOCK);
            self.write(whole)?;
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn append_zeros(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            let part = length.min(BLOCK as u64);
            self.append(&[0; BLOCK][..part as usize])?;
            length -= part;
        }
        Ok(())
    }

    /// A hole has ended. Its whole blocks are left out; the rest of it are zeros in the blocks of its neighbours.
    fn end_hole(&mut self) -> Result<()> {
        let (from, to) = (self.extents.size(), self.extents.size() + self.hole);
        self.hole = 0;
        let block = BLOCK as u64;
        let first = from.next_multiple_of(block);
        let last = if to == self.size { to } else { to / block * block };
        if first >= last {
            return self.append_zeros(to - from);
        }
        self.append_zeros(first - from)?;
        self.extents.hole(last - first);
        self.append_zeros(to - last)
    }

    /// Takes the last `length` bytes from `pending` to the spool of tails and returns their offset there.
    fn set_tail_aside(&mut self, length: usize) -> Result<u64> {
        let from = self.pending.len() - length;
        let spool = || self.store.spool(self.index);
        let offset = self.tails.add(&self.pending[from..], TAIL_UNIT as usize, spool)?;
        self.pending.truncate(from);
        Ok(offset)
    }
}

impl LayerStore for ErofsLayer {
    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        self.size = size;
        self.room = if self.store.inline_tails() { room(metadata) } else { 0 };
        self.start = self.written + (self.pending.len() / BLOCK) as u64;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if self.hole > 0 && !bytes.is_empty() {
            self.end_hole()?;
        }
        self.append(bytes)
    }

    fn take(&mut self, source: &File, offset: u64, length: u64) -> Result<()> {
        if self.hole > 0 {
            self.end_hole()?;
        }
        let block = BLOCK as u64;
        // What does not begin at a block in both files cannot be shared.
        if !self.pending.len().is_multiple_of(BLOCK) || !offset.is_multiple_of(block) {
            return take_through_memory(self, source, offset, length);
        }
        self.flush()?;
        let whole = length / block * block;
        let (to, at) = self.destination()?;
        copy_range(source, offset, to, at, whole).map_err(|error| image_error(&error))?;
        self.written += whole / block;
        self.extents.data(whole);
        take_through_memory(self, source, offset + whole, length - whole)
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.hole += length;
        Ok(())
    }

    fn end(&mut self) -> Result<Content> {
        if self.hole > 0 {
            self.end_hole()?;
        }
        let size = self.extents.size();
        let extents = self.extents.take();
        let open = self.pending.len() % BLOCK;
        let mut tail = None;
        if extents.is_none() && 0 < open && open <= self.room {
            tail = Some(self.set_tail_aside(open)?);
        } else if open > 0 {
            self.pending.resize(self.pending.len() + BLOCK - open, 0);
        }
        let block = u32::try_from(self.start).ok();
        let position = block.and_then(|block| PackedPosition { block, tail }.encode());
        let position = position.ok_or_else(too_large)?;
        Ok(Content { layer: self.index, position, size, extents })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let tails = self.tails.finish(|| self.store.spool(self.index))?;
        self.pending = Vec::new();
        if self.store.blocks(self.index).is_some_and(|expected| expected != self.written) {
            return Err(Error::new(Code::Io, "a kept layer is not what its table says"));
        }
        if let Some(tails) = tails {
            self.store.give_back(tails);
        }
        let (ready, place) = self.store.complete(self.index, self.written, self.ahead.is_some());
        if let Some(base) = place {
            self.enter(base)?;
        }
        self.ahead = None;
        self.store.take_all_in(ready)
    }
}
