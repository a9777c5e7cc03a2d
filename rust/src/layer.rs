//! Ingest of one layer: SHA-256 of the blob, decompress, SHA-256 of the diff ID, parse, store contents, hand entries on.
//!
//! Three threads share the work of a layer. Whoever brings the blob's bytes hashes them and passes them on
//! (`BlobSender`); the second thread decompresses; the third hashes what came out and reads the archive. The queues
//! between them are short, so that a slow stage slows the one before it and memory stays bounded.

mod blob;
mod buffers;
mod cores;
mod inflating;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use self::blob::BlobMessage;
pub use self::blob::{BUFFER, BlobReceiver, Points};
use self::buffers::Buffers;
pub use self::cores::Cores;
use self::inflating::inflate;
use crate::batch::StoredEntry;
use crate::contents::{Content, LayerStore};
use crate::digest::{Digest, Hasher};
use crate::entry::{Entry, Kind};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::read::{FileSource, erofs, layer};
use crate::spool::unnamed_file;
use crate::tar::{Data, Reader};

/// Buffers of a queue between two stages.
const QUEUE: usize = 6;
/// Entries that go to the merge at a time, and about how many bytes of them.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// What the manifest and the config say of one layer.
#[derive(Clone, Debug)]
pub struct LayerInput {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the decompressed layer.
    pub diff_id: Digest,
    /// Whether it holds what a user adds to the image: see [`crate::merge::Merge::additions`].
    pub added: bool,
    /// Where an erofs image waits until it is whole; none for a layer that is an archive.
    pub erofs: Option<PathBuf>,
}

/// How far a layer is; read by whoever shows progress.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the blob taken.
    pub compressed: AtomicU64,
    /// Decompressed bytes read.
    pub decompressed: AtomicU64,
    /// Whether the layer is in the tree.
    pub applied: AtomicBool,
}

/// The feeding end: takes the blob's bytes in order and verifies them.
pub struct BlobSender {
    sender: Option<SyncSender<BlobMessage>>,
    recycled: Receiver<Vec<u8>>,
    pending: Vec<u8>,
    hasher: Hasher,
    taken: u64,
    input: LayerInput,
}

/// A queue for the blob of one layer.
pub fn blob_channel(input: &LayerInput) -> (BlobSender, BlobReceiver) {
    let (sender, receiver) = sync_channel(QUEUE);
    let (recycle, recycled) = channel();
    let hasher = Hasher::new(input.digest.algorithm());
    let input = input.clone();
    let sending = BlobSender { sender: Some(sender), recycled, pending: Vec::new(), hasher, taken: 0, input };
    let receiving = BlobReceiver { receiver, recycle, points: Points::default() };
    (sending, receiving)
}

impl BlobSender {
    /// Takes the next bytes of the blob; blocks while the decoder has enough. When the decoder has stopped, bytes are
    /// still hashed: whether the blob is the right one says what its failure means.
    ///
    /// # Errors
    /// `size_mismatch` as soon as there are more bytes than the descriptor says.
    pub fn write(&mut self, chunk: &[u8], progress: &Progress) -> Result<()> {
        self.taken += chunk.len() as u64;
        if self.taken > self.input.size {
            let expected = format!("{} bytes", self.input.size);
            return Err(Error::mismatch(Code::SizeMismatch, "the blob is too long", expected, "more"));
        }
        progress.compressed.store(self.taken, Ordering::Relaxed);
        self.hasher.update(chunk);
        let mut rest = chunk;
        while self.sender.is_some() && !rest.is_empty() {
            if self.pending.capacity() == 0 {
                self.pending = self.recycled.try_recv().unwrap_or_default();
                self.pending.clear();
                self.pending.reserve_exact(BUFFER);
            }
            let (now, later) = rest.split_at(rest.len().min(BUFFER - self.pending.len()));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() == BUFFER {
                self.flush();
            }
        }
        Ok(())
    }

    /// Hands on what is waiting for a full buffer. A decoder that stopped is not this end's failure.
    fn flush(&mut self) {
        if let Some(sender) = &self.sender
            && !self.pending.is_empty()
            && sender.send(BlobMessage::Chunk(std::mem::take(&mut self.pending))).is_err()
        {
            self.sender = None;
        }
    }

    /// The blob is complete.
    ///
    /// # Errors
    /// `size_mismatch`, `digest_mismatch`.
    pub fn close(mut self) -> Result<()> {
        let LayerInput { digest, size, .. } = &self.input;
        if self.taken != *size {
            let (expected, seen) = (format!("{size} bytes"), format!("{} bytes", self.taken));
            return Err(Error::mismatch(Code::SizeMismatch, "the blob has the wrong size", expected, seen));
        }
        let seen = self.hasher.clone().finish();
        if seen != *digest {
            return Err(Error::mismatch(Code::DigestMismatch, "the blob has the wrong digest", digest, seen));
        }
        self.flush();
        if let Some(sender) = &self.sender {
            // A decoder that has stopped has said why.
            let _ = sender.send(BlobMessage::End);
        }
        Ok(())
    }
}

/// Decompresses a blob and reads it as an archive.
///
/// Contents go to `store`, entries in batches to `entries`. Returns once the last byte of the decompressed layer, past
/// the end of the archive, is hashed and compared; gives what became of the blob's restart points.
///
/// # Errors
/// `compression_invalid`, `tar_invalid`, `limit_exceeded`, `diff_id_mismatch`, `entry_refused`, `io_error`;
/// `cancelled` when the feed was dropped before its end or `entries` refuses a batch.
pub fn ingest(
    blob: BlobReceiver,
    input: &LayerInput,
    limits: &Limits,
    cores: &dyn Cores,
    store: &mut dyn LayerStore,
    progress: &Progress,
    entries: &mut dyn FnMut(Vec<StoredEntry>) -> Result<()>,
) -> Result<Points> {
    let (sender, receiver) = sync_channel(QUEUE);
    let (recycle, recycled) = channel();
    std::thread::scope(|scope| {
        let inflating = std::thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || inflate(blob, limits, cores, &sender, &recycled))
            .map_err(|error| Error::thread(&error))?;
        let read = read_archive(receiver, recycle, input, limits, store, progress, entries);
        let inflated = inflating.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What stopped the first stage is the cause of what the second one saw, unless it stopped because nobody
        // took its buffers any more.
        match (inflated, read) {
            (Err(error), _) if error.code != Code::Cancelled => Err(error),
            (inflated, read) => read.and(inflated),
        }
    })
}

fn read_archive(
    receiver: Receiver<Vec<u8>>,
    recycle: Sender<Vec<u8>>,
    input: &LayerInput,
    limits: &Limits,
    store: &mut dyn LayerStore,
    progress: &Progress,
    entries: &mut dyn FnMut(Vec<StoredEntry>) -> Result<()>,
) -> Result<()> {
    let broken = Cell::new(false);
    let hasher = RefCell::new(Hasher::new(input.diff_id.algorithm()));
    let next = || {
        let buffer = receiver.recv();
        broken.set(buffer.is_err());
        let buffer = buffer.ok()?;
        hasher.borrow_mut().update(&buffer);
        progress.decompressed.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Some(buffer)
    };
    let inflated = Buffers::new(recycle, next, || false);
    let done = match &input.erofs {
        None => read_entries(inflated, limits, store, entries),
        Some(folder) => read_image(inflated, folder, limits, store, entries),
    };
    if let Err(error) = done {
        let cancelled = || Error::new(Code::Cancelled, "the layer is not wanted any more");
        return Err(if broken.get() { cancelled() } else { error });
    }
    let seen = hasher.into_inner().finish();
    if seen != input.diff_id {
        let what = "the decompressed layer does not have its diff ID";
        return Err(Error::mismatch(Code::DiffIdMismatch, what, &input.diff_id, seen));
    }
    Ok(())
}

/// Reads an image, which has to be whole before any of it can be read.
fn read_image(
    mut inflated: impl BufRead,
    folder: &Path,
    limits: &Limits,
    store: &mut dyn LayerStore,
    entries: &mut dyn FnMut(Vec<StoredEntry>) -> Result<()>,
) -> Result<()> {
    let mut file = unnamed_file(folder)?;
    loop {
        let bytes = inflated.fill_buf().map_err(|error| Error::io("cannot read the layer", &error))?;
        let length = bytes.len();
        if length == 0 {
            break;
        }
        file.write_all(bytes).map_err(|error| Error::io("cannot keep the layer", &error))?;
        inflated.consume(length);
    }
    let image = erofs::read(Arc::new(FileSource::new(file)?), Vec::new(), limits)?;
    let (mut batch, mut weight) = (Vec::new(), 0);
    layer::entries(&image, store, &mut |ingested| {
        weight += ingested.weight();
        batch.push(ingested);
        if batch.len() < BATCH && weight < BATCH_BYTES {
            return Ok(());
        }
        weight = 0;
        entries(std::mem::take(&mut batch))
    })?;
    entries(batch)
}

/// Reads the archive, and what is behind it to the stream's end.
fn read_entries(
    inflated: impl BufRead,
    limits: &Limits,
    store: &mut dyn LayerStore,
    entries: &mut dyn FnMut(Vec<StoredEntry>) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(inflated, limits.clone());
    let (mut batch, mut weight) = (Vec::with_capacity(BATCH), 0);
    while let Some(entry) = reader.next_entry()? {
        let content = match entry.kind {
            Kind::File { size } => {
                let content = read_content(&mut reader, &entry, size, store);
                Some(content.map_err(|error| error.at_entry(&entry.path, entry.offset))?)
            }
            _ => None,
        };
        let ingested = StoredEntry { entry, content };
        weight += ingested.weight();
        batch.push(ingested);
        if batch.len() == BATCH || weight >= BATCH_BYTES {
            weight = 0;
            entries(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))?;
        }
    }
    entries(batch)?;
    store.finish()?;
    let mut rest = reader.into_inner();
    loop {
        let length = rest.fill_buf().map_err(|error| Error::io("cannot read the layer", &error))?.len();
        if length == 0 {
            return Ok(());
        }
        rest.consume(length);
    }
}

fn read_content(
    reader: &mut Reader<impl BufRead>,
    entry: &Entry,
    size: u64,
    store: &mut dyn LayerStore,
) -> Result<Content> {
    store.called(&entry.path);
    store.begin(&entry.metadata, size)?;
    while let Some(data) = reader.next_data()? {
        match data {
            Data::Bytes(bytes) => store.data(bytes)?,
            Data::Hole(length) => store.hole(length)?,
        }
    }
    store.end()
}
