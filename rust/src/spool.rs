//! Contents that wait in unnamed files, for every output that has no better place for them.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::contents::{Content, Contents, Extents, Later, LayerStore, Store, read_runs};
use crate::entry::Metadata;
use crate::error::{Error, Result};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// Unnamed files, one for each layer that is being written. A finished layer gives its file to the next one, which goes on
/// behind it. So the number of open files follows the layers at work, not all layers.
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
    /// Of the data file of a decoded layer: first byte after the data.
    shared: Option<u64>,
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
        SpoolPart { file: Arc::clone(&self.file), start: self.end, shared: None }
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
    /// Of layers whose contents come when they are asked for.
    later: Vec<OnceLock<Arc<dyn Later>>>,
}

impl SpoolStore {
    /// A store for `layers` layers with its files in `folder`.
    pub fn new(folder: &Path, layers: usize) -> Self {
        let parts = (0..layers).map(|_| OnceLock::new()).collect();
        let later = (0..layers).map(|_| OnceLock::new()).collect();
        SpoolStore { folder: folder.to_owned(), spools: Spools::default(), parts, later }
    }

    /// The data file of the decoded layer that is layer `index`, and the first byte after its data; `None` where the
    /// layer's contents wait in a spool, or it has none.
    pub fn shared_file(&self, index: u32) -> Option<(&File, u64)> {
        let part = self.parts.get(index as usize)?.get()?;
        part.shared.map(|end| (&*part.file, end))
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

    fn share(&self, index: u32, data: &Arc<File>, end: u64) -> Result<()> {
        let part = SpoolPart { file: Arc::clone(data), start: 0, shared: Some(end) };
        if self.parts[index as usize].set(part).is_err() {
            unreachable!("layer {index} was opened twice");
        }
        Ok(())
    }

    fn later(&self, index: u32, contents: Arc<dyn Later>) -> Result<()> {
        if self.later[index as usize].set(contents).is_err() {
            unreachable!("layer {index} was opened twice");
        }
        Ok(())
    }
}

impl Contents for SpoolStore {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if let Some(later) = self.later[content.layer as usize].get() {
            return later.read_at(content, offset, buffer);
        }
        let part = self.parts[content.layer as usize].get();
        read_runs(content, offset, buffer, |position, bytes| match part {
            _ if bytes.is_empty() => Ok(()),
            Some(part) => part.read(bytes, content.position + position),
            None => unreachable!("content of a layer that was never written"),
        })
    }

    fn store(&self) -> Option<&dyn Any> {
        Some(self)
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
    use crate::contents::Extent;

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
