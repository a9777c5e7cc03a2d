//! The contents store of a squashfs image: blocks are compressed while layers arrive.
//!
//! Each layer has its blocks in a file of its own, in the order of arrival. The image takes those that the finished tree
//! still has, in the order of that tree, so that its bytes follow from the layers alone, and nothing that was replaced or
//! left out is in it. Ends of files that are no whole block wait as they are: they are packed together in the same order.
//! So do files that an upper layer seems to replace: few of them are wanted in the end.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::codec::{Compression, decompress};
use super::format::PLAIN;
use super::pool::Pool;
use crate::contents::{Content, Contents, Covers, LayerStore, Store};
use crate::error::Result;
use crate::output::move_contents_of;
use crate::spool::{Spool, SpoolPart, SpoolStore, Spools};
use crate::tree::{InodeKind, Tree};

/// In the place of a block's length: as many blocks of zeros as the other bits say, which stand nowhere.
const HOLES: u32 = 1 << 31;

/// Flag in the position of a content that waits uncompressed, because an upper layer may hide it.
const WAITS: u64 = 1 << 63;

/// Blocks of a file, one or a run of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRun(u32);

impl BlockRun {
    /// A block of data that is not there yet.
    pub const AWAITED: BlockRun = BlockRun(0);

    /// A block of data, by its length in the image with [`PLAIN`] where it is not compressed.
    pub fn data(length: u32) -> Self {
        BlockRun(length)
    }

    /// Some blocks of zeros, as many as one run can be of.
    pub fn holes(count: u64) -> Self {
        BlockRun(HOLES | count.min(u64::from(HOLES - 1)) as u32)
    }

    /// Number of blocks when all of them are zeros.
    pub fn zeros(self) -> Option<u64> {
        (self.0 & HOLES != 0).then_some(u64::from(self.0 & !HOLES))
    }

    /// Number of blocks.
    pub fn count(self) -> u64 {
        self.zeros().unwrap_or(1)
    }

    /// What the image says of each of the blocks.
    pub fn length(self) -> u32 {
        if self.zeros().is_some() { 0 } else { self.0 }
    }

    /// Bytes in the image.
    pub fn stored(self) -> u64 {
        u64::from(self.length() & !PLAIN)
    }
}

/// What is known of one file.
#[derive(Clone, Copy, Debug)]
pub struct FileRecord {
    /// Where its blocks begin in the layer's file.
    pub start: u64,
    /// Where its end begins in the layer's file of ends.
    pub tail: u64,
    /// Its runs among all of the layer.
    pub first: u32,
    /// Number of runs.
    pub runs: u32,
    /// Equal for equal files; not so rarely for others.
    pub checksum: u32,
}

/// The files of a finished layer.
#[derive(Default)]
pub struct FinishedLayer {
    /// Blocks of data.
    pub data: Option<SpoolPart>,
    /// Ends of files.
    pub tails: Option<SpoolPart>,
    /// By [`Content::position`].
    pub records: Vec<FileRecord>,
    /// Of all files, one after the other.
    pub runs: Vec<BlockRun>,
}

impl FinishedLayer {
    /// The runs of a file.
    pub fn runs(&self, record: &FileRecord) -> &[BlockRun] {
        &self.runs[record.first as usize..][..record.runs as usize]
    }
}

type Plain = (u32, u64, Arc<[u8]>);

/// Takes the contents of all layers, compresses them and keeps them until the image takes them.
pub struct SquashfsStore {
    pool: Arc<Pool>,
    compression: Compression,
    folder: PathBuf,
    spools: Arc<Spools>,
    parts: Vec<Arc<OnceLock<FinishedLayer>>>,
    covers: OnceLock<Arc<Covers>>,
    /// What upper layers seem to replace.
    waiting: Arc<SpoolStore>,
    /// The block that was read last, by layer and place.
    last: Mutex<Option<Plain>>,
}

impl SquashfsStore {
    /// A store for `layers` layers; unnamed spool files go to `folder`.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(compression: &Compression, folder: &Path, layers: usize) -> Result<Self> {
        Ok(SquashfsStore {
            pool: Arc::new(Pool::new(compression)?),
            compression: *compression,
            folder: folder.to_owned(),
            spools: Arc::default(),
            parts: (0..layers).map(|_| Arc::default()).collect(),
            covers: OnceLock::new(),
            waiting: Arc::new(SpoolStore::new(folder, layers)),
            last: Mutex::default(),
        })
    }

    /// How contents are compressed.
    pub fn compression(&self) -> &Compression {
        &self.compression
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn set_covers(&self, covers: &Arc<Covers>) {
        // A second flattener over one store would open its layers twice.
        let _ = self.covers.set(Arc::clone(covers));
    }

    /// Whether an upper layer seems to replace a file.
    pub(super) fn covers(&self, layer: u32, path: &[u8]) -> bool {
        self.covers.get().is_some_and(|covers| covers(layer, path))
    }

    /// A part that takes files as they come, for a layer; what it makes of them goes through [`SquashfsStore::waits`].
    pub(super) fn waiting_part(&self, layer: u32) -> Result<Box<dyn LayerStore>> {
        self.waiting.layer(layer)
    }

    /// The content of this store for one of such a part.
    pub(super) fn waits(content: Content) -> Content {
        Content { position: content.position | WAITS, ..content }
    }

    /// The content as that part has it.
    fn waiting(content: &Content) -> Option<Content> {
        (content.position & WAITS != 0).then(|| Content { position: content.position & !WAITS, ..content.clone() })
    }

    /// Compresses what has waited and is in the tree all the same, because a hard link wants it, or an entry that seemed
    /// to replace it went elsewhere. All layers are complete. Returns the tree without such contents, and its store, which
    /// shares all that is here; `None` when there are none.
    ///
    /// # Errors
    /// `io_error`; what `progress` returns.
    pub(super) fn compress_waiting(
        &self,
        tree: &Tree,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Option<(Tree, Arc<Self>)>> {
        let waits = |content: &Content| content.position & WAITS != 0;
        let mut files = tree.walk();
        if !files.any(|step| matches!(&tree.inode(step.inode).kind, InodeKind::File(content) if waits(content))) {
            return Ok(None);
        }
        let mut parts = self.parts.clone();
        parts.push(Arc::default());
        let store = Arc::new(SquashfsStore {
            pool: Arc::clone(&self.pool),
            compression: self.compression,
            folder: self.folder.clone(),
            spools: Arc::clone(&self.spools),
            parts,
            covers: OnceLock::new(),
            waiting: Arc::clone(&self.waiting),
            last: Mutex::default(),
        });
        let moved = move_contents_of(tree, &waits, self, (&store, self.parts.len() as u32), &mut |_| progress(0))?;
        Ok(Some((moved, store)))
    }

    pub(super) fn spool(&self) -> Result<Spool> {
        self.spools.take(&self.folder)
    }

    pub(super) fn give_back(&self, spool: Spool) {
        self.spools.give(spool);
    }

    /// A layer is complete.
    pub(super) fn set_part(&self, layer: u32, part: FinishedLayer) {
        if self.parts[layer as usize].set(part).is_err() {
            unreachable!("layer {layer} was opened twice");
        }
    }

    pub(super) fn part(&self, layer: u32) -> &FinishedLayer {
        let Some(part) = self.parts[layer as usize].get() else {
            unreachable!("content of a layer that is not complete");
        };
        part
    }

    /// The layers, lowest first.
    pub(super) fn parts(&self) -> impl Iterator<Item = &FinishedLayer> {
        (0..self.parts.len() as u32).map(|layer| self.part(layer))
    }

    pub(super) fn record(&self, content: &Content) -> (&FinishedLayer, &FileRecord) {
        let part = self.part(content.layer);
        (part, &part.records[content.position as usize])
    }

    /// Bytes at the end of a file that are packed together with those of others.
    pub(super) fn tail(&self, content: &Content) -> usize {
        if self.compression.packs_tails { (content.size % self.compression.block as u64) as usize } else { 0 }
    }

    /// Reads bytes of such an end.
    pub(super) fn read_tail(&self, content: &Content, from: u64, buffer: &mut [u8]) -> Result<()> {
        let (part, record) = self.record(content);
        let Some(tails) = &part.tails else { unreachable!("a file without an end was asked for it") };
        tails.read(buffer, record.tail + from)
    }

    /// A block of data as it was before it was compressed.
    fn block(&self, layer: u32, at: u64, length: u32, plain: usize) -> Result<Arc<[u8]>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, place, bytes)) = &*last
            && (*known, *place) == (layer, at)
        {
            return Ok(Arc::clone(bytes));
        }
        let Some(data) = &self.part(layer).data else { unreachable!("a layer without data was asked for it") };
        let mut stored = vec![0; (length & !PLAIN) as usize];
        data.read(&mut stored, at)?;
        if length & PLAIN == 0 {
            let mut bytes = vec![0; plain];
            decompress(self.compression.algorithm, &stored, &mut bytes)?;
            stored = bytes;
        }
        let bytes: Arc<[u8]> = stored.into();
        *last = Some((layer, at, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl Contents for SquashfsStore {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let wanted = content.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (buffer, end) = (&mut buffer[..wanted], offset + wanted as u64);
        if wanted == 0 {
            return Ok(0);
        }
        if let Some(content) = Self::waiting(content) {
            return self.waiting.read_at(&content, offset, buffer);
        }
        buffer.fill(0);
        let (part, record) = self.record(content);
        let block = self.compression.block as u64;
        let (mut at, mut place) = (0, record.start);
        for run in part.runs(record) {
            let next = content.size.min(at + run.count() * block);
            let (from, to) = (at.max(offset), next.min(end));
            if from < to && run.zeros().is_none() {
                let bytes = self.block(content.layer, place, run.length(), (next - at) as usize)?;
                let part = &bytes[(from - at) as usize..(to - at) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
            (at, place) = (next, place + run.stored());
            if at >= end {
                break;
            }
        }
        if at < end {
            let from = at.max(offset);
            self.read_tail(content, from - at, &mut buffer[(from - offset) as usize..])?;
        }
        Ok(wanted)
    }

    fn store(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
