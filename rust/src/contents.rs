//! Where file contents wait between the layer that brings them and the output that wants them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::entry::Metadata;
use crate::error::{Error, Result};

/// A run of data in a sparse file, in bytes of the file's own offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Bytes of data before it in the file, which is where it stands in the store.
    pub stored: u64,
}

/// The content of one regular file: where a store keeps it. Plain data, meaningless without its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which layer brought it.
    pub layer: u32,
    /// Where it stands in that layer's part of the store; the store's own measure.
    pub position: u64,
    /// Apparent size in bytes, holes included.
    pub size: u64,
    /// The data of a sparse file, ascending, back to back in the store; `None` when all of it is data.
    pub extents: Option<Arc<[Extent]>>,
}

impl Content {
    /// The data runs: the whole file where it is not sparse, none where it is empty.
    pub fn runs(&self) -> impl Iterator<Item = Extent> + '_ {
        let whole = match self.extents {
            None if self.size > 0 => Some(Extent { offset: 0, length: self.size, stored: 0 }),
            _ => None,
        };
        whole.into_iter().chain(self.extents.iter().flat_map(|extents| extents.iter().copied()))
    }
}

/// Takes the contents of all layers, each layer from a thread of its own.
pub trait Store: Send + Sync {
    /// The part that takes the contents of layer `index`; called once for each.
    ///
    /// # Errors
    /// `io_error`.
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>>;

    /// Whether the data file of a decoded layer (see [`crate::blocks`]) can be this store's part of the layer. Then
    /// `share` is called in the place of `layer`, and contents get their place by `shared`.
    fn shares(&self) -> bool {
        false
    }

    /// A file of the store's own for such data, where the other one cannot be written.
    ///
    /// # Errors
    /// `io_error`.
    fn spare(&self) -> Result<File> {
        unreachable!("this store shares nothing")
    }

    /// Takes the complete data file of a decoded layer, whose data end before byte `end`.
    ///
    /// # Errors
    /// `io_error`.
    fn share(&self, _index: u32, _data: &Arc<File>, _end: u64) -> Result<()> {
        unreachable!("this store shares nothing")
    }

    /// A content of a decoded layer as one of this store.
    ///
    /// # Errors
    /// `output_unsupported` when the store has no such place.
    fn shared(&self, content: Content) -> Result<Content> {
        Ok(content)
    }

    /// Tells the contents of layer `index` before any of its data come, so that its place may be known.
    ///
    /// # Errors
    /// What `contents` returns; `io_error`.
    fn expect(&self, _index: u32, _contents: &mut dyn Iterator<Item = Result<(Metadata, Content)>>) -> Result<()> {
        Ok(())
    }
}

/// Takes the contents of one layer, file by file: `begin`, `data` and `hole` in order of offsets, `end`.
pub trait LayerStore: Send {
    /// A file of apparent size `size` follows.
    ///
    /// # Errors
    /// `io_error`, here and below.
    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()>;
    /// The next bytes of the file.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// The next `length` bytes of the file are zero and need no space.
    fn hole(&mut self, length: u64) -> Result<()>;
    /// The next `length` bytes of the file, which stand in `source` from `offset` on: the store may have the system copy
    /// or share them.
    fn take(&mut self, source: &File, offset: u64, length: u64) -> Result<()> {
        take_through_memory(self, source, offset, length)
    }
    /// The file is complete.
    fn end(&mut self) -> Result<Content>;
    /// The layer is complete.
    fn finish(&mut self) -> Result<()>;
}

/// Reads bytes of `source` and hands them to `store` as data.
///
/// # Errors
/// `io_error`.
pub fn take_through_memory(
    store: &mut (impl LayerStore + ?Sized),
    source: &File,
    mut offset: u64,
    mut length: u64,
) -> Result<()> {
    let mut buffer = vec![0; length.min(BUFFER as u64) as usize];
    while length > 0 {
        let part = &mut buffer[..length.min(BUFFER as u64) as usize];
        source.read_exact_at(part, offset).map_err(|error| Error::io("cannot read stored data", &error))?;
        store.data(part)?;
        offset += part.len() as u64;
        length -= part.len() as u64;
    }
    Ok(())
}

/// Gives contents back once all layers are in.
pub trait Contents: Send + Sync {
    /// Fills `buffer` from byte `offset` of the content and returns how much there was; less than asked only at the
    /// content's end. Holes read as zeros.
    ///
    /// # Errors
    /// `io_error`.
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize>;
}

/// Reads a sparse-aware store: `raw(position, buffer)` reads stored bytes, counted from the content's first.
///
/// # Errors
/// What `raw` returns.
pub fn read_runs(
    content: &Content,
    offset: u64,
    buffer: &mut [u8],
    mut raw: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<usize> {
    let wanted = content.size.saturating_sub(offset).min(buffer.len() as u64);
    let buffer = &mut buffer[..wanted as usize];
    let Some(extents) = &content.extents else {
        raw(offset, buffer)?;
        return Ok(buffer.len());
    };
    buffer.fill(0);
    let end = offset + wanted;
    // A file of a million extents is read piece by piece: the first that matters is looked up, not walked to.
    let first = extents.partition_point(|run| run.offset + run.length <= offset);
    for run in extents[first..].iter().take_while(|run| run.offset < end) {
        let (from, to) = (run.offset.max(offset), (run.offset + run.length).min(end));
        let part = &mut buffer[(from - offset) as usize..(to - offset) as usize];
        raw(run.stored + (from - run.offset), part)?;
    }
    Ok(buffer.len())
}

/// Collects the extents of the file that a layer store is taking.
#[derive(Debug, Default)]
pub struct Extents {
    offset: u64,
    stored: u64,
    runs: Vec<Extent>,
    sparse: bool,
}

impl Extents {
    /// `length` bytes of data follow.
    pub fn data(&mut self, length: u64) {
        if length == 0 {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.offset + last.length == self.offset => last.length += length,
            _ => self.runs.push(Extent { offset: self.offset, length, stored: self.stored }),
        }
        self.offset += length;
        self.stored += length;
    }

    /// `length` bytes of nothing follow.
    pub fn hole(&mut self, length: u64) {
        self.offset += length;
        self.sparse |= length > 0;
    }

    /// Bytes of data so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Apparent bytes so far.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// What belongs into [`Content::extents`]; starts anew.
    pub fn take(&mut self) -> Option<Arc<[Extent]>> {
        let taken = std::mem::take(self);
        taken.sparse.then(|| taken.runs.into())
    }
}

const BUFFER: usize = 1 << 20;

/// Unnamed files, as many as layers are written side by side: who has written all of its layer gives its file to the
/// next one, who goes on behind it. So the open files follow the work, not the number of layers.
#[derive(Default)]
pub struct Spools {
    idle: Mutex<Vec<Spool>>,
}

/// A file that one layer writes to, and the next one behind it.
pub struct Spool {
    file: Arc<File>,
    end: u64,
}

/// Where a layer's part of a spool begins.
#[derive(Debug)]
pub struct SpoolPart {
    file: Arc<File>,
    start: u64,
}

impl Spools {
    /// A file that nobody else writes to, in `folder`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn take(&self, folder: &Path) -> Result<Spool> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(spool) => Ok(spool),
            None => Ok(Spool { file: Arc::new(unnamed_file(folder)?), end: 0 }),
        }
    }

    /// Takes a file back from who has written all.
    pub fn give(&self, spool: Spool) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(spool);
    }
}

impl Spool {
    /// What is written from now on.
    pub fn part(&self) -> SpoolPart {
        SpoolPart { file: Arc::clone(&self.file), start: self.end }
    }

    /// Writes behind what was written.
    ///
    /// # Errors
    /// `io_error`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.end);
        written.map_err(|error| Error::io("cannot write the spool file", &error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

impl SpoolPart {
    /// The file, and where an offset of the part is in it.
    pub fn place(&self, offset: u64) -> (&File, u64) {
        (&self.file, self.start + offset)
    }

    /// Reads exactly what stands at an offset of the part.
    ///
    /// # Errors
    /// `io_error`.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let read = self.file.read_exact_at(buffer, self.start + offset);
        read.map_err(|error| Error::io("cannot read the spool file", &error))
    }
}

/// Makes a file that has no name any more, mode 0600, so that nothing of it can stay behind.
///
/// # Errors
/// `io_error`.
pub fn unnamed_file(folder: &Path) -> Result<File> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!("spool-{}", SERIAL.fetch_add(1, Ordering::Relaxed)));
    let failed = |error| Error::io(format_args!("cannot write {}", path.display()), &error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// The contents of each layer back to back, in spools.
pub struct SpoolStore {
    folder: PathBuf,
    spools: Spools,
    /// Set by a layer that has written something.
    parts: Vec<OnceLock<SpoolPart>>,
}

impl SpoolStore {
    /// A store for `layers` layers with its files in `folder`.
    pub fn new(folder: &Path, layers: usize) -> Self {
        let parts = (0..layers).map(|_| OnceLock::new()).collect();
        SpoolStore { folder: folder.to_owned(), spools: Spools::default(), parts }
    }
}

impl Store for Arc<SpoolStore> {
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        Ok(Box::new(SpoolLayer {
            store: Arc::clone(self),
            spool: None,
            layer: index,
            buffer: Vec::with_capacity(BUFFER),
            written: 0,
            start: 0,
            extents: Extents::default(),
        }))
    }

    /// Bytes of a data file and of a spool are counted alike.
    fn shares(&self) -> bool {
        true
    }

    fn spare(&self) -> Result<File> {
        unnamed_file(&self.folder)
    }

    fn share(&self, index: u32, data: &Arc<File>, _: u64) -> Result<()> {
        if self.parts[index as usize].set(SpoolPart { file: Arc::clone(data), start: 0 }).is_err() {
            unreachable!("layer {index} was opened twice");
        }
        Ok(())
    }
}

impl Contents for SpoolStore {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let part = self.parts[content.layer as usize].get();
        read_runs(content, offset, buffer, |position, bytes| match part {
            _ if bytes.is_empty() => Ok(()),
            Some(part) => part.read(bytes, content.position + position),
            None => unreachable!("content of a layer that was never written"),
        })
    }
}

struct SpoolLayer {
    store: Arc<SpoolStore>,
    /// From the first byte that is written to the end of the layer.
    spool: Option<Spool>,
    layer: u32,
    buffer: Vec<u8>,
    written: u64,
    start: u64,
    extents: Extents,
}

impl SpoolLayer {
    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => {
                let spool = self.store.spools.take(&self.store.folder)?;
                if self.store.parts[self.layer as usize].set(spool.part()).is_err() {
                    unreachable!("layer {} was opened twice", self.layer);
                }
                self.spool.insert(spool)
            }
        };
        spool.write(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl LayerStore for SpoolLayer {
    fn begin(&mut self, _: &Metadata, _: u64) -> Result<()> {
        self.start = self.written + self.buffer.len() as u64;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.extents.data(bytes.len() as u64);
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER / 8 {
            self.flush()?;
            self.write(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.extents.hole(length);
        Ok(())
    }

    fn end(&mut self) -> Result<Content> {
        let size = self.extents.size();
        Ok(Content { layer: self.layer, position: self.start, size, extents: self.extents.take() })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.buffer = Vec::new();
        if let Some(spool) = self.spool.take() {
            self.store.spools.give(spool);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(SpoolStore::new(folder.path(), 2));
        let big: Vec<u8> = (0..3 * BUFFER).map(|index| (index / 7) as u8).collect();
        let mut layer = store.layer(1)?;
        let metadata = Metadata::default();
        let mut kept = Vec::new();
        for bytes in [&b"small"[..], &big, b"", b"last"] {
            layer.begin(&metadata, bytes.len() as u64)?;
            for part in bytes.chunks(100_000) {
                layer.data(part)?;
            }
            kept.push((layer.end()?, bytes.to_vec()));
        }
        layer.begin(&metadata, 30)?;
        layer.hole(5)?;
        layer.data(b"abc")?;
        layer.data(b"de")?;
        layer.hole(10)?;
        layer.data(b"fghij")?;
        layer.hole(5)?;
        let sparse = layer.end()?;
        assert_eq!(sparse.extents.as_deref().map(<[Extent]>::len), Some(2));
        kept.push((sparse, b"\0\0\0\0\0abcde\0\0\0\0\0\0\0\0\0\0fghij\0\0\0\0\0".to_vec()));
        layer.finish()?;
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
        for (content, expected) in &kept {
            assert_eq!(content.size, expected.len() as u64);
            for (offset, length) in [(0, expected.len() + 10), (3, 5), (7, 9), (expected.len(), 1)] {
                let mut buffer = vec![0xAA; length];
                let got = store.read_at(content, offset as u64, &mut buffer)?;
                let expected = expected.get(offset..).unwrap_or_default();
                assert_eq!(&buffer[..got], &expected[..length.min(expected.len())]);
            }
        }
        Ok(())
    }
}
