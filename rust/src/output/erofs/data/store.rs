//! The contents store of an erofs image: the image itself.
//!
//! Whole blocks of file data go where they will stay: layer after layer, and within a layer in the order of arrival, so
//! that the layout is a function of the layers alone. What comes before its layer's place is known waits in a file of the
//! layer's own. The rest of a file that is not a whole block waits in a spool file, and goes right behind the file's inode
//! when the metadata are written.

use std::any::Any;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ahead::{AheadFile, WaitingLayer};
use super::block_map::Move;
use super::file_data::{DataPlace, FileData};
use crate::contents::{Content, Contents, read_runs};
use crate::error::{Code, Error, Result};
use crate::output::erofs::format::numbers::{BLOCK, blocks};
use crate::output::file_range::copy_range;
use crate::spool::{Spool, SpoolPart, Spools};
use crate::tree::InodeId;

/// Name of the image that the store makes itself.
const IMAGE: &str = "image.erofs";

/// The first block of data: block 0 holds the superblock.
const FIRST: u64 = 1;

/// Tails start at multiples of this in their spool, so that 32 bits number the tails of 128 GiB.
pub const TAIL_UNIT: u64 = 32;

/// What [`Content::position`] says here: the content's first block, counted in its layer, and its tail.
pub struct PackedPosition {
    /// First block.
    pub block: u32,
    /// Offset in the layer's spool of tails, when the content has a tail there.
    pub tail: Option<u64>,
}

impl PackedPosition {
    fn of(content: &Content) -> Self {
        let tail = content.position as u32;
        let tail = (tail > 0).then(|| u64::from(tail - 1) * TAIL_UNIT);
        PackedPosition { block: (content.position >> 32) as u32, tail }
    }

    /// The number that [`Content::position`] holds, if it can.
    pub fn encode(self) -> Option<u64> {
        let tail = match self.tail {
            Some(offset) => u32::try_from(offset / TAIL_UNIT).ok()?.checked_add(1)?,
            None => 0,
        };
        Some(u64::from(self.block) << 32 | u64::from(tail))
    }
}

/// Where the data of a layer stand.
#[derive(Default)]
struct LayerPlace {
    /// First block in the image, known once the layer below is finished.
    base: Option<u64>,
    /// Blocks of a finished layer.
    blocks: Option<u64>,
    /// Whether the data of a finished layer wait in a file of their own.
    ahead: bool,
    /// Data of a decoded layer, which wait in its own file.
    shared: Option<Arc<File>>,
}

impl LayerPlace {
    /// First block of the place of a layer whose data wait.
    fn waits_at(&self) -> Option<u64> {
        self.base.filter(|_| self.ahead)
    }
}

/// Takes the contents of all layers and keeps them in the image.
pub struct ErofsStore {
    image: File,
    folder: PathBuf,
    parts: Mutex<Vec<LayerPlace>>,
    spools: Spools,
    /// Set by a layer that has tails.
    tails: Vec<OnceLock<SpoolPart>>,
    moves: OnceLock<Vec<Move>>,
    inline_tails: bool,
    /// Whether data wait, although the places of all layers are known: see [`ErofsStore::waiting`].
    any_waiting: AtomicBool,
}

impl ErofsStore {
    /// A store for `layers` layers in `image`, an empty file open for reading and writing. Unnamed spool files go to
    /// `folder`.
    pub fn new(image: File, folder: &Path, layers: usize) -> Self {
        let mut parts: Vec<LayerPlace> = (0..layers).map(|_| LayerPlace::default()).collect();
        if let Some(first) = parts.first_mut() {
            first.base = Some(FIRST);
        }
        ErofsStore {
            image,
            folder: folder.to_owned(),
            parts: Mutex::new(parts),
            spools: Spools::default(),
            tails: (0..layers).map(|_| OnceLock::new()).collect(),
            moves: OnceLock::new(),
            inline_tails: true,
            any_waiting: AtomicBool::new(false),
        }
    }

    /// The same with whole blocks only, without tails behind inodes. Data of decoded layers are then taken in
    /// unchanged.
    #[must_use]
    pub fn of_whole_blocks(self) -> Self {
        ErofsStore { inline_tails: false, ..self }
    }

    /// Whether the rest of a file that is no whole block goes behind its inode where it fits.
    pub fn inline_tails(&self) -> bool {
        self.inline_tails
    }

    /// The data of a decoded layer are in a file of its own.
    pub(in crate::output::erofs) fn set_shared(&self, index: u32, data: &Arc<File>) {
        self.parts()[index as usize].shared = Some(Arc::clone(data));
    }

    /// Blocks of a finished layer, or of one whose contents were told.
    pub(in crate::output::erofs) fn blocks(&self, index: u32) -> Option<u64> {
        self.parts()[index as usize].blocks
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

    /// Whether the image was completed; it is only once.
    pub fn is_complete(&self) -> bool {
        self.moves.get().is_some()
    }

    /// Gives the image that [`ErofsStore::create`] made its name, on the same file system.
    ///
    /// # Errors
    /// `io_error`.
    pub(in crate::output::erofs) fn publish(&self, path: &Path) -> Result<()> {
        std::fs::rename(self.folder.join(IMAGE), path)
            .map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))
    }

    /// Where files of the run's own go.
    pub(in crate::output::erofs) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(in crate::output::erofs) fn image(&self) -> &File {
        &self.image
    }

    /// First block of a layer, once it is known.
    pub(in crate::output::erofs) fn base(&self, index: u32) -> Option<u64> {
        self.parts()[index as usize].base
    }

    /// A file for a layer's tails.
    pub(in crate::output::erofs) fn spool(&self, index: u32) -> Result<Spool> {
        let spool = self.spools.take(&self.folder)?;
        if self.tails[index as usize].set(spool.part()).is_err() {
            unreachable!("layer {index} was opened twice");
        }
        Ok(spool)
    }

    /// Takes the file back: the layer has all its tails.
    pub(in crate::output::erofs) fn give_back(&self, spool: Spool) {
        self.spools.give(spool);
    }

    /// The file for what a layer writes ahead.
    pub(in crate::output::erofs) fn ahead(&self, index: u32) -> AheadFile {
        AheadFile::new(&self.folder, index)
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Vec<LayerPlace>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first block of data, and the first after them.
    pub(in crate::output::erofs) fn data_area(&self) -> Result<(u64, u64)> {
        let parts = self.parts();
        let end = match parts.last() {
            None => Some(FIRST),
            Some(LayerPlace { base: Some(base), blocks: Some(blocks), .. }) => Some(base + blocks),
            Some(_) => None,
        };
        end.map(|end| (FIRST, end)).ok_or_else(|| Error::new(Code::Internal, "a layer of the image is not complete"))
    }

    /// The content's blocks in the image, as their first and how many.
    pub(in crate::output::erofs) fn extent(&self, content: &Content) -> (u64, u64) {
        let position = PackedPosition::of(content);
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
        match PackedPosition::of(content).tail {
            Some(_) => (content.size % BLOCK as u64) as usize,
            None => 0,
        }
    }

    /// Reads part of the tail.
    fn read_tail_part(&self, content: &Content, from: u64, buffer: &mut [u8]) -> Result<()> {
        let (Some(part), Some(tail)) = (self.tails[content.layer as usize].get(), PackedPosition::of(content).tail)
        else {
            unreachable!("a content without a tail was asked for it");
        };
        part.read(buffer, tail + from)
    }

    /// Moves extents inside the image; `moves` are in an order in which none writes over what another still needs. Moves of
    /// what waits are only noted: it is copied to its new place later. Gives all in the order of their first blocks.
    pub(in crate::output::erofs) fn relocate(&self, mut moves: Vec<Move>, waiting: &[WaitingLayer]) -> Result<&[Move]> {
        let block = BLOCK as u64;
        for step in moves.iter().filter(|step| !waiting.iter().any(|layer| layer.has(step.from))) {
            let (from, to) = (u64::from(step.from) * block, u64::from(step.to) * block);
            copy_range(&self.image, from, &self.image, to, u64::from(step.length) * block)
                .map_err(|error| image_error(&error))?;
        }
        moves.sort_unstable_by_key(|step| step.from);
        if self.moves.set(moves).is_err() {
            return Err(Error::new(Code::Internal, "the image is complete already"));
        }
        Ok(self.moves.get().map_or(&[], Vec::as_slice))
    }
}

/// The error of a write to the image.
pub fn image_error(error: &io::Error) -> Error {
    Error::io("cannot write the image", error)
}

impl FileData for ErofsStore {
    fn place<'a>(&'a self, _: InodeId, content: &'a Content) -> DataPlace<'a> {
        let (start, count) = self.extent(content);
        let start = if count > 0 { start as u32 } else { 0 };
        match &content.extents {
            Some(_) => DataPlace::Sparse { start, content: Cow::Borrowed(content) },
            None => DataPlace::Flat { start, tail: self.tail(content) },
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
        let waiting = if count > 0 { self.waiting_file(content.layer)? } else { None };
        let read_blocks = |position: u64, part: &mut [u8]| {
            let (file, base) = waiting.as_ref().map_or((&self.image, 0), |(file, base)| (file, *base));
            file.read_exact_at(part, (start - base) * BLOCK as u64 + position)
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

    fn store(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Finished layers that wrote ahead, whose place has become known: index, first block, number of blocks.
pub type Ready = Vec<(u32, u64, u64)>;

impl ErofsStore {
    /// Layer `index` has all its `count` blocks. Where its place is known, so is now that of the layer above, and of
    /// every further one as long as they are finished. Otherwise what it wrote `ahead` is left for the layer below. Once
    /// the blocks of all layers are known, what was written ahead waits until the tree is known as well. Gives the layer's
    /// place, unless that is unknown or its data wait.
    pub(in crate::output::erofs) fn complete(&self, index: u32, count: u64, ahead: bool) -> (Ready, Option<u64>) {
        let mut parts = self.parts();
        let mut ready = Vec::new();
        let at = index as usize;
        parts[at].blocks = Some(count);
        let Some(place) = parts[at].base else {
            parts[at].ahead = ahead;
            return (ready, None);
        };
        let all_known = parts.iter().all(|part| part.blocks.is_some());
        let may_wait = |part: &LayerPlace| all_known && part.shared.is_none();
        let mut end = place + count;
        for (index, part) in (index + 1..).zip(parts.iter_mut().skip(at + 1)) {
            part.base = Some(end);
            let Some(count) = part.blocks else { break };
            if part.ahead && !may_wait(part) {
                part.ahead = false;
                ready.push((index, end, count));
            }
            end += count;
        }
        parts[at].ahead = ahead && may_wait(&parts[at]);
        self.any_waiting.store(all_known && parts.iter().any(|part| part.ahead), Ordering::Release);
        (ready, (!parts[at].ahead).then_some(place))
    }

    /// Copies the blocks that a layer wrote ahead, or that its decoded layer has, to their place; removes what was
    /// written ahead.
    pub(in crate::output::erofs) fn take_in(&self, index: u32, base: u64, count: u64) -> Result<()> {
        let shared = self.parts()[index as usize].shared.take();
        if let Some(data) = shared {
            // Where the file system can, blocks are shared and nothing is copied.
            let block = BLOCK as u64;
            return copy_range(&data, block, &self.image, base * block, count * block)
                .map_err(|error| image_error(&error));
        }
        let ahead = self.ahead(index);
        ahead.copy_all(&self.image, base, count)?;
        ahead.remove()
    }

    /// The same for all that are ready.
    pub(in crate::output::erofs) fn take_all_in(&self, ready: Ready) -> Result<()> {
        ready.into_iter().try_for_each(|(index, base, count)| self.take_in(index, base, count))
    }

    /// The layers whose data wait. Who has copied them says so by [`ErofsStore::arrived`].
    pub(in crate::output::erofs) fn waiting(&self) -> Vec<WaitingLayer> {
        let parts = self.parts();
        let waiting = (0..).zip(parts.iter()).filter_map(|(index, part)| {
            let (base, count) = part.waits_at().zip(part.blocks)?;
            Some(WaitingLayer { file: self.ahead(index), base, count })
        });
        waiting.collect()
    }

    /// All data are in the image.
    pub(in crate::output::erofs) fn arrived(&self) {
        self.parts().iter_mut().for_each(|part| part.ahead = false);
        self.any_waiting.store(false, Ordering::Release);
    }

    /// The file in which the data of a layer wait, and the first block of its place.
    fn waiting_file(&self, index: u32) -> Result<Option<(File, u64)>> {
        if !self.any_waiting.load(Ordering::Acquire) {
            return Ok(None);
        }
        if self.is_complete() {
            return Err(Error::new(Code::Io, "cannot read an image that could not be completed"));
        }
        let base = self.parts()[index as usize].waits_at();
        base.map(|base| Ok((self.ahead(index).open()?, base))).transpose()
    }
}
