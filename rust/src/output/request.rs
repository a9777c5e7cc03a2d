//! What every writer takes, and what it gives back.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::behind::BehindStream;
use super::compress::{Compressor, StreamCompression};
use super::losses::Loss;
use crate::contents::{Content, Contents};
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::tree::{InodeKind, Tree};

/// Told bytes done and all that there are; what it returns ends the work.
pub type OnProgress<'a> = Box<dyn FnMut(u64, u64) -> Result<()> + Send + 'a>;

/// Where an output goes.
#[derive(Debug)]
pub enum Target<'a> {
    /// A file that does not exist yet; for a directory, an empty folder.
    Path(&'a Path),
    /// An open file that is empty. An archive is written to it in order, so that it may be a pipe.
    Open(File),
    /// An open file, of which all before this byte stays as it is.
    At(File, u64),
}

impl<'a> Target<'a> {
    /// The path of one that does not exist yet.
    ///
    /// # Errors
    /// `internal` for an open file.
    pub(super) fn path(&self) -> Result<&'a Path> {
        match self {
            Target::Path(path) => Ok(path),
            _ => Err(Error::new(Code::Internal, "this format is written to a path, not to an open file")),
        }
    }

    /// The file, which is made where it does not exist yet.
    ///
    /// # Errors
    /// `io_error`; `internal` for a place in a file that has something else as well.
    pub(super) fn file(self) -> Result<File> {
        match self {
            Target::Path(path) => create(path),
            Target::Open(file) => Ok(file),
            Target::At(..) => Err(Error::new(Code::Internal, "this format needs a file of its own")),
        }
    }
}

/// A new file, for its owner alone.
pub(super) fn create(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))
}

/// A tree, and where its contents wait.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What is written.
    pub tree: &'a Tree,
    /// Its contents. The writer that a store is made for moves or shares them; all others read them.
    pub contents: &'a dyn Contents,
    /// Counts the bytes of contents that the writer has taken, for whoever looks meanwhile.
    pub taken: Option<&'a AtomicU64>,
}

impl<'a> Source<'a> {
    /// A tree whose writer is not watched.
    pub fn new(tree: &'a Tree, contents: &'a dyn Contents) -> Self {
        Source { tree, contents, taken: None }
    }

    /// The store of the contents, if it is one of this kind.
    pub fn store<S: Any>(&self) -> Option<&'a S> {
        self.contents.store()?.downcast_ref()
    }

    /// Bytes of all contents, each file once.
    pub(super) fn content_bytes(&self) -> u64 {
        content_bytes(self.tree)
    }

    /// Says how many bytes are taken.
    pub(super) fn took(&self, bytes: u64) {
        if let Some(taken) = self.taken {
            taken.store(bytes, Ordering::Relaxed);
        }
    }

    /// The contents, which count what is read of them from now on.
    pub(super) fn metered(&self) -> Metered<'a> {
        self.took(0);
        Metered(*self)
    }
}

/// Bytes of what the files of a tree hold, each inode once, holes included.
pub fn content_bytes(tree: &Tree) -> u64 {
    let first = tree.walk().filter(|step| step.first);
    let sizes = first.filter_map(|step| match &tree.inode(step.inode).kind {
        InodeKind::File(content) => Some(content.size),
        _ => None,
    });
    sizes.sum()
}

/// See [`Source::metered`].
pub(super) struct Metered<'a>(Source<'a>);

impl Contents for Metered<'_> {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let read = self.0.contents.read_at(content, offset, buffer)?;
        if let Some(taken) = self.0.taken {
            taken.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(read)
    }
}

/// One run of a writer: what is written, where to, and what is chosen about it. `O` are the options of the format.
pub struct WriteRequest<'a, O, S = Source<'a>> {
    /// What is written: a tree, or the members of a layer.
    pub source: S,
    /// Where to. The caller publishes it, and removes it when the writer fails.
    pub target: Target<'a>,
    /// What the format leaves to be chosen.
    pub options: O,
    /// Identity of a file system, which the caller works out of the image's digest. The seeds of its hashes follow.
    pub uuid: [u8; 16],
    /// When the output says that it was made, in seconds since 1970.
    pub created: i64,
    /// Later modification times become this one, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// How many threads may work; they change nothing in the output.
    pub threads: usize,
    /// A folder for files of the writer's own, on the file system of the target; the caller removes it. Writers with a
    /// store of their own need it for contents that wait in another one.
    pub folder: Option<&'a Path>,
    /// Told now and then how far the work is, by writers for which that is long.
    pub progress: Option<OnProgress<'a>>,
}

impl<'a, O, S> WriteRequest<'a, O, S> {
    /// A request in which all is as it is by itself: a UUID and a time of zeros, no clamp, one thread.
    pub fn new(source: S, target: Target<'a>, options: O) -> Self {
        WriteRequest {
            source,
            target,
            options,
            uuid: [0; 16],
            created: 0,
            clamp_mtime: None,
            threads: 1,
            folder: None,
            progress: None,
        }
    }
}

/// The folder for contents that wait in another store than the writer's own.
///
/// # Errors
/// `internal` when there is none.
pub(super) fn for_copies(folder: Option<&Path>) -> Result<&Path> {
    folder
        .ok_or_else(|| Error::new(Code::Internal, "contents wait in another store, and there is no folder for copies"))
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the output; none of a directory.
    pub bytes: Option<u64>,
    /// What it cannot hold.
    pub losses: Vec<Loss>,
    /// What describes it besides.
    pub properties: Properties,
}

/// What a writer has found out about its output, as far as its format has such things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Bytes of the output that nothing uses.
    pub dead: u64,
    /// The block at which each device begins where all stand in one file or on one disk, in their order.
    pub bases: Vec<u64>,
    /// Of the blob of a layer.
    pub digest: Option<Digest>,
    /// Of the tar that is in such a blob.
    pub diff_id: Option<Digest>,
}

/// Writes a stream behind a compressor.
pub(super) fn write_stream(
    target: Target<'_>,
    compression: StreamCompression,
    write: impl FnOnce(Compressor<BehindStream>) -> Result<(Compressor<BehindStream>, Vec<Loss>)>,
) -> Result<Written> {
    let out = Compressor::new(BehindStream::new(target.file()?)?, compression)?;
    let (out, losses) = write(out)?;
    let bytes = out.finish()?.finish().map_err(|error| Error::io("writing the archive", &error))?;
    Ok(Written { bytes: Some(bytes), losses, ..Written::default() })
}
