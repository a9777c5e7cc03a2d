//! The contents store of an erofs image: the image itself.
//!
//! Whole blocks of file data go where they will stay: layer after layer, and within a layer in the order of arrival, so
//! that the layout is a function of the layers alone. The rest of a file that is not a whole block waits in a spool
//! file, and goes right behind the file's inode when the metadata are written.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::copy::copy_range;
use super::files::{Files, Place};
use super::format::{BLOCK, EXTENDED, blocks};
use super::space::Move;
use super::xattr;
use crate::contents::{Content, Contents, Extents, LayerStore, Store, read_runs, unnamed_file};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::tree::InodeId;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// A chunk of data of this size is not collected but written at once.
const DIRECT: usize = 1 << 16;

/// Name of the image that the store makes itself.
const IMAGE: &str = "image.erofs";

/// The first block of data: block 0 holds the superblock.
const FIRST: u64 = 1;

/// Tails start at multiples of this in their spool, so that 32 bits number the tails of 128 GiB.
const TAIL_UNIT: u64 = 32;

/// What [`Content::position`] says here: the content's first block, counted in its layer, and its tail.
struct Position {
    block: u32,
    /// Offset in the layer's spool of tails, when the content has a tail there.
    tail: Option<u64>,
}

impl Position {
    fn of(content: &Content) -> Self {
        let tail = content.position as u32;
        let tail = (tail > 0).then(|| u64::from(tail - 1) * TAIL_UNIT);
        Position { block: (content.position >> 32) as u32, tail }
    }

    fn encode(self) -> Option<u64> {
        let tail = match self.tail {
            Some(offset) => u32::try_from(offset / TAIL_UNIT).ok()?.checked_add(1)?,
            None => 0,
        };
        Some(u64::from(self.block) << 32 | u64::from(tail))
    }
}

/// Where the data of a layer stand.
#[derive(Default)]
struct Part {
    /// First block in the image, known once the layer below is finished.
    base: Option<u64>,
    /// Blocks of a finished layer.
    blocks: Option<u64>,
    /// Data of a layer that finished before its base was known.
    ahead: Option<File>,
}

/// Takes the contents of all layers and keeps them in the image.
pub struct ErofsStore {
    image: File,
    folder: PathBuf,
    parts: Mutex<Vec<Part>>,
    tails: Vec<OnceLock<File>>,
    moves: OnceLock<Vec<Move>>,
}

impl ErofsStore {
    /// A store for `layers` layers in `image`, an empty file open for reading and writing. Unnamed spool files go to
    /// `folder`.
    pub fn new(image: File, folder: &Path, layers: usize) -> Self {
        let mut parts: Vec<Part> = (0..layers).map(|_| Part::default()).collect();
        if let Some(first) = parts.first_mut() {
            first.base = Some(FIRST);
        }
        ErofsStore {
            image,
            folder: folder.to_owned(),
            parts: Mutex::new(parts),
            tails: (0..layers).map(|_| OnceLock::new()).collect(),
            moves: OnceLock::new(),
        }
    }

    /// As [`ErofsStore::new`], with an image of its own in `folder`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn create(folder: &Path, layers: usize) -> Result<Self> {
        let path = folder.join(IMAGE);
        let mut options = File::options();
        let image = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let image = image.map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))?;
        Ok(ErofsStore::new(image, folder, layers))
    }

    /// Gives the image that [`ErofsStore::create`] made its name, on the same file system.
    ///
    /// # Errors
    /// `io_error`.
    pub fn publish(&self, path: &Path) -> Result<()> {
        std::fs::rename(self.folder.join(IMAGE), path)
            .map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))
    }

    pub(super) fn image(&self) -> &File {
        &self.image
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first block of data, and the first after them.
    pub(super) fn data_area(&self) -> Result<(u64, u64)> {
        let parts = self.parts();
        let end = match parts.last() {
            None => Some(FIRST),
            Some(Part { base: Some(base), blocks: Some(blocks), .. }) => Some(base + blocks),
            Some(_) => None,
        };
        end.map(|end| (FIRST, end)).ok_or_else(|| Error::new(Code::Io, "a layer of the image is not complete"))
    }

    /// The content's blocks in the image, as their first and how many.
    pub(super) fn extent(&self, content: &Content) -> (u64, u64) {
        let position = Position::of(content);
        let stored: u64 = content.runs().map(|run| run.length).sum();
        let count = if position.tail.is_some() { stored / BLOCK as u64 } else { blocks(stored) };
        let base = self.parts()[content.layer as usize].base.unwrap_or(FIRST);
        let start = base + u64::from(position.block);
        let moved = self.moves.get().and_then(|moves| {
            let index = moves.binary_search_by_key(&start, |step| u64::from(step.from)).ok()?;
            Some(u64::from(moves[index].to))
        });
        (if count > 0 { moved.unwrap_or(start) } else { start }, count)
    }

    /// Bytes of the content that wait for their inode.
    fn tail(&self, content: &Content) -> usize {
        match Position::of(content).tail {
            Some(_) => (content.size % BLOCK as u64) as usize,
            None => 0,
        }
    }

    /// Reads part of the tail.
    fn read_tail_part(&self, content: &Content, from: u64, buffer: &mut [u8]) -> Result<()> {
        let (Some(file), Some(tail)) = (self.tails[content.layer as usize].get(), Position::of(content).tail) else {
            unreachable!("a content without a tail was asked for it");
        };
        file.read_exact_at(buffer, tail + from).map_err(|error| Error::io("cannot read the spool file", &error))
    }

    /// Moves extents inside the image; `moves` are in an order in which none writes over what another still needs.
    pub(super) fn relocate(&self, mut moves: Vec<Move>) -> Result<()> {
        let block = BLOCK as u64;
        for step in &moves {
            let (from, to) = (u64::from(step.from) * block, u64::from(step.to) * block);
            copy_range(&self.image, from, &self.image, to, u64::from(step.length) * block)
                .map_err(|error| image_error(&error))?;
        }
        moves.sort_unstable_by_key(|step| step.from);
        if self.moves.set(moves).is_err() {
            return Err(Error::new(Code::Io, "the image is complete already"));
        }
        Ok(())
    }
}

fn image_error(error: &io::Error) -> Error {
    Error::io("cannot write the image", error)
}

impl Store for Arc<ErofsStore> {
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        let tails = unnamed_file(&self.folder, &format!("tails-{index}"))?;
        let ours = tails.try_clone().map_err(|error| Error::io("cannot open the spool file again", &error))?;
        if self.tails[index as usize].set(ours).is_err() {
            unreachable!("layer {index} was opened twice");
        }
        Ok(Box::new(ErofsLayer {
            store: Arc::clone(self),
            index,
            base: None,
            ahead: None,
            pending: Vec::with_capacity(BUFFER + BLOCK),
            written: 0,
            tails,
            tail_pending: Vec::new(),
            tail_written: 0,
            size: 0,
            room: 0,
            start: 0,
            hole: 0,
            extents: Extents::default(),
        }))
    }
}

impl Files for ErofsStore {
    fn place<'a>(&'a self, _: InodeId, content: &'a Content) -> Place<'a> {
        let (start, count) = self.extent(content);
        let start = if count > 0 { start as u32 } else { 0 };
        match &content.extents {
            Some(_) => Place::Sparse { start, content: Cow::Borrowed(content) },
            None => Place::Flat { start, tail: self.tail(content) },
        }
    }

    fn read_tail(&self, _: InodeId, content: &Content, buffer: &mut [u8]) -> Result<()> {
        self.read_tail_part(content, 0, buffer)
    }
}

impl Contents for ErofsStore {
    /// Reads the content back, before the image is completed and after it.
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (start, count) = self.extent(content);
        let inside = count * BLOCK as u64;
        let read_blocks = |position: u64, part: &mut [u8]| {
            self.image
                .read_exact_at(part, start * BLOCK as u64 + position)
                .map_err(|error| Error::io("cannot read the image", &error))
        };
        read_runs(content, offset, buffer, |position, part| {
            if self.tail(content) == 0 {
                return read_blocks(position, part);
            }
            let (head, rest) = part.split_at_mut(inside.saturating_sub(position).min(part.len() as u64) as usize);
            if !head.is_empty() {
                read_blocks(position, head)?;
            }
            if !rest.is_empty() {
                self.read_tail_part(content, position.max(inside) - inside, rest)?;
            }
            Ok(())
        })
    }
}

/// Takes the contents of one layer.
struct ErofsLayer {
    store: Arc<ErofsStore>,
    index: u32,
    /// First block in the image, once it is known here and everything before is in the image.
    base: Option<u64>,
    /// Takes blocks, at offsets counted from the layer's first, until the base is known.
    ahead: Option<File>,
    /// Bytes not yet written. Files start at blocks, so only its last block can be incomplete.
    pending: Vec<u8>,
    /// Blocks of this layer written.
    written: u64,
    tails: File,
    tail_pending: Vec<u8>,
    tail_written: u64,
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

    /// Writes whole blocks, to the image when this layer's place in it is known.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.base.is_none() {
            let known = self.store.parts()[self.index as usize].base;
            if let Some(base) = known {
                self.enter(base)?;
            }
        }
        let block = BLOCK as u64;
        match (self.base, &self.ahead) {
            (Some(base), _) => {
                let offset = (base + self.written) * block;
                self.store.image.write_all_at(bytes, offset).map_err(|error| image_error(&error))?;
            }
            (None, Some(ahead)) => write_ahead(ahead, bytes, self.written * block)?,
            (None, None) => {
                let ahead = unnamed_file(&self.store.folder, &format!("ahead-{}", self.index))?;
                write_ahead(&ahead, bytes, self.written * block)?;
                self.ahead = Some(ahead);
            }
        }
        self.written += bytes.len() as u64 / block;
        Ok(())
    }

    /// The base is known: what was written ahead goes into the image.
    fn enter(&mut self, base: u64) -> Result<()> {
        if let Some(ahead) = self.ahead.take() {
            self.store.take_in(&ahead, base, self.written)?;
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
        let offset = self.tail_written + self.tail_pending.len() as u64;
        self.tail_pending.extend_from_slice(&self.pending[from..]);
        let padded = self.tail_pending.len().next_multiple_of(TAIL_UNIT as usize);
        self.tail_pending.resize(padded, 0);
        self.pending.truncate(from);
        if self.tail_pending.len() >= BUFFER {
            self.flush_tails()?;
        }
        Ok(offset)
    }

    fn flush_tails(&mut self) -> Result<()> {
        self.tails
            .write_all_at(&self.tail_pending, self.tail_written)
            .map_err(|error| Error::io("cannot write the spool file", &error))?;
        self.tail_written += self.tail_pending.len() as u64;
        self.tail_pending.clear();
        Ok(())
    }
}

fn write_ahead(ahead: &File, bytes: &[u8], offset: u64) -> Result<()> {
    ahead.write_all_at(bytes, offset).map_err(|error| Error::io("cannot write the spool file", &error))
}

impl LayerStore for ErofsLayer {
    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        self.size = size;
        self.room = BLOCK.saturating_sub(EXTENDED + xattr::bound(metadata));
        self.start = self.written + (self.pending.len() / BLOCK) as u64;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if self.hole > 0 && !bytes.is_empty() {
            self.end_hole()?;
        }
        self.append(bytes)
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
        let position = block.and_then(|block| Position { block, tail }.encode());
        let Some(position) = position else {
            return Err(Error::new(Code::OutputUnsupported, "the layer is too large for an erofs image (16 TiB)"));
        };
        Ok(Content { layer: self.index, position, size, extents })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.flush_tails()?;
        (self.pending, self.tail_pending) = (Vec::new(), Vec::new());
        let (ready, place) = self.store.complete(self.index, self.written, &mut self.ahead);
        if let Some(base) = place {
            self.enter(base)?;
        }
        for (ahead, base, count) in ready {
            self.store.take_in(&ahead, base, count)?;
        }
        Ok(())
    }
}

/// Finished layers whose place has become known: what they wrote ahead, first block, number of blocks.
type Ready = Vec<(File, u64, u64)>;

impl ErofsStore {
    /// Layer `index` has all its `count` blocks. Where its place is known, so is now that of the layer above, and of
    /// every further one as long as they are finished. Otherwise what it wrote ahead is left for the layer below.
    fn complete(&self, index: u32, count: u64, ahead: &mut Option<File>) -> (Ready, Option<u64>) {
        let mut parts = self.parts();
        let mut ready = Vec::new();
        let place = parts[index as usize].base;
        parts[index as usize].blocks = Some(count);
        let Some(mut end) = place.map(|base| base + count) else {
            parts[index as usize].ahead = ahead.take();
            return (ready, None);
        };
        for part in parts.iter_mut().skip(index as usize + 1) {
            part.base = Some(end);
            let Some(count) = part.blocks else { break };
            if let Some(ahead) = part.ahead.take() {
                ready.push((ahead, end, count));
            }
            end += count;
        }
        (ready, place)
    }

    /// Copies blocks that were written ahead to their place.
    fn take_in(&self, ahead: &File, base: u64, count: u64) -> Result<()> {
        let block = BLOCK as u64;
        copy_range(ahead, 0, &self.image, base * block, count * block).map_err(|error| image_error(&error))
    }
}
