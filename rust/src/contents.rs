//! Where file contents wait between the layer that brings them and the output that wants them.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::entry::Metadata;
use crate::error::{Code, Error, Result};

/// A run of data in a sparse file, in bytes of the file's own offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Bytes of data before it in the file: its offset in the store, which keeps data without holes.
    pub stored: u64,
}

/// The content of one regular file: where a store keeps it. Plain data, meaningless without its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which layer brought it.
    pub layer: u32,
    /// Where it is in that layer's part of the store; what the number means is the store's own.
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

/// Whether a layer above the one of this index seems to hide the file that has this path there: a hint, which what the
/// tree has in the end may belie either way.
pub type Covers = dyn Fn(u32, &[u8]) -> bool + Send + Sync;

/// Takes the contents of all layers, each layer from a thread of its own.
pub trait Store: Send + Sync {
    /// The part that takes the contents of layer `index`; called once for each.
    ///
    /// # Errors
    /// `io_error`.
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>>;

    /// Gives the store what is known of files that upper layers hide. Returns whether it makes use of that: then upper
    /// layers are read first, as far as cores go.
    fn watch(&self, _covers: &Arc<Covers>) -> bool {
        false
    }

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

    /// Takes contents of layer `index` that come when they are asked for, in the place of `layer`.
    ///
    /// # Errors
    /// `internal_error` where the store has no place for them.
    fn later(&self, _index: u32, _contents: Arc<dyn Later>) -> Result<()> {
        Err(Error::new(Code::Internal, "this store takes no contents that come later"))
    }

    /// Tells the contents of layer `index` before any of its data come, so that its place may be known.
    ///
    /// # Errors
    /// What `contents` returns; `io_error`.
    fn expect(&self, _index: u32, _contents: &mut dyn Iterator<Item = Result<(Metadata, Content)>>) -> Result<()> {
        Ok(())
    }
}

/// Takes the contents of one layer, file by file: `called`, `begin`, `data` and `hole` in order of offsets, `end`.
pub trait LayerStore: Send {
    /// The file that `begin` tells of next has this path in its layer. Not told of a content that has none of its own.
    fn called(&mut self, _path: &[u8]) {}
    /// A file of apparent size `size` follows.
    ///
    /// # Errors
    /// `io_error`, here and below.
    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()>;
    /// The next bytes of the file.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// The next `length` bytes of the file are zero and need no space.
    fn hole(&mut self, length: u64) -> Result<()>;
    /// The next `length` bytes of the file are those of `source` from `offset` on: the store may have the system copy
    /// them, or share their blocks.
    fn take(&mut self, source: &File, offset: u64, length: u64) -> Result<()> {
        take_through_memory(self, source, offset, length)
    }
    /// The file is complete.
    fn end(&mut self) -> Result<Content>;
    /// The layer is complete.
    fn finish(&mut self) -> Result<()>;
}

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

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

    /// The store that this is, for a writer that looks whether contents wait in its own.
    fn store(&self) -> Option<&dyn Any> {
        None
    }
}

/// Contents of a layer that are not there before somebody asks for them.
pub trait Later: Send + Sync {
    /// As [`Contents::read_at`].
    ///
    /// # Errors
    /// `io_error`; what the layer's blob is damaged by.
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
