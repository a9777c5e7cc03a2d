use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::fd::duplicate;
use super::output::SquashfsCompression;
use super::pages::Pages;
use crate::contents::{Content, Contents};
use crate::error::{Code, Error, Result};
use crate::merge::Notices;
use crate::output::erofs::{self, ErofsStore};
use crate::output::tar::{self, Holes};
use crate::output::{
    self, DirectoryStore, Loss, OnProgress, Source, StreamCompression, Target, WriteRequest, Written, content_bytes,
    cpio, directory, ext4, squashfs, squashfs_tar,
};
use crate::tree::{self as core, InodeId, InodeKind};

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Tree {
    pub tree: core::Tree,
    notices: Notices,
    unmatched: Vec<String>,
    /// The store where its contents wait.
    pub contents: Arc<dyn Contents>,
    pages: Pages,
    /// Bytes of contents that the writer has taken so far.
    packed: AtomicU64,
}

/// Most bytes of one read.
const READ_MAX: u64 = 16 << 20;

/// Path, type, mode, uid, gid, mtime seconds, nanoseconds, symlink target, size, inode number.
pub(super) type TreeRow = (Py<PyBytes>, &'static str, u16, u32, u32, i64, u32, Py<PyBytes>, u64, usize);

/// Kind, detail, count, the first few paths.
pub(super) type LossRow = (&'static str, String, u64, Vec<Py<PyBytes>>);

pub(super) fn losses(py: Python<'_>, losses: Vec<Loss>) -> Vec<LossRow> {
    let path = |path: &Vec<u8>| PyBytes::new(py, path).unbind();
    let row = |loss: Loss| (loss.kind, loss.detail, loss.count, loss.paths.iter().map(path).collect());
    losses.into_iter().map(row).collect()
}

impl Tree {
    pub(super) fn new(tree: core::Tree, notices: Notices, unmatched: Vec<String>, contents: Arc<dyn Contents>) -> Self {
        Tree { tree, notices, unmatched, contents, pages: Pages::default(), packed: AtomicU64::new(0) }
    }

    pub(super) fn row(&self, py: Python<'_>, path: &[u8], id: InodeId) -> TreeRow {
        let inode = self.tree.inode(id);
        let (target, size): (&[u8], _) = match &inode.kind {
            InodeKind::File(content) => (b"", content.size),
            InodeKind::Symlink(target) => (target, target.len() as u64),
            _ => (b"", 0),
        };
        let metadata = &inode.metadata;
        (
            PyBytes::new(py, path).unbind(),
            inode.kind.name(),
            metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.mtime.seconds,
            metadata.mtime.nanoseconds,
            PyBytes::new(py, target).unbind(),
            size,
            id.index(),
        )
    }

    /// The tree for a writer.
    pub(super) fn source(&self) -> Source<'_> {
        Source { tree: &self.tree, contents: &*self.contents, taken: Some(&self.packed) }
    }

    fn store<S: 'static>(&self) -> Option<&S> {
        self.source().store()
    }
}

/// An open file of Python's as a target.
pub(super) fn open(fd: i32) -> Result<Target<'static>> {
    Ok(Target::Open(duplicate(fd)?))
}

/// What was written, as most writers tell it to Python.
fn row(py: Python<'_>, written: Written) -> (u64, Vec<LossRow>) {
    (written.bytes.unwrap_or_default(), losses(py, written.losses))
}

/// Runs a writer that tells a callback of Python's how far it is; what that raises ends the work.
fn told(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    write: impl FnOnce(OnProgress<'_>) -> Result<Written> + Send,
) -> PyResult<(u64, Vec<LossRow>)> {
    let mut raised = None;
    let written = py.detach(|| write(Box::new(|done, total| tell(progress.as_ref(), &mut raised, done, total))));
    match raised {
        Some(raised) => Err(raised),
        None => Ok(row(py, written?)),
    }
}

/// Calls a progress callback of Python's; what it raises ends the work and is kept.
pub(super) fn tell(progress: Option<&Py<PyAny>>, raised: &mut Option<PyErr>, done: u64, total: u64) -> Result<()> {
    let Some(progress) = progress else { return Ok(()) };
    Python::attach(|py| progress.call1(py, (done, total))).map(drop).map_err(|error| {
        *raised = Some(error);
        Error::new(Code::Cancelled, "progress was refused")
    })
}

#[pymethods]
impl Tree {
    fn __len__(&self) -> usize {
        usize::try_from(self.tree.names()).unwrap_or(usize::MAX)
    }

    fn content_bytes(&self) -> u64 {
        content_bytes(&self.tree)
    }

    fn data_bytes(&self) -> u64 {
        let first = self.tree.walk().filter(|step| step.first);
        let contents = first.filter_map(|step| match &self.tree.inode(step.inode).kind {
            InodeKind::File(content) => Some(content),
            _ => None,
        });
        contents.flat_map(Content::runs).map(|run| run.length).sum()
    }

    fn packed(&self, py: Python<'_>) -> u64 {
        if let Some(store) = self.store::<DirectoryStore>() {
            return store.placed();
        }
        match self.store::<ErofsStore>() {
            // The image is where the contents are.
            Some(store) if !store.is_complete() => py.detach(|| self.content_bytes()),
            _ => self.packed.load(Ordering::Relaxed),
        }
    }

    fn notices(&self) -> Vec<(&'static str, u64)> {
        self.notices.iter().map(|(what, count)| (*what, *count)).collect()
    }

    fn unmatched(&self) -> Vec<String> {
        self.unmatched.clone()
    }

    #[pyo3(signature = (prefix, start, count, /))]
    fn entries(&self, py: Python<'_>, prefix: &[u8], start: usize, count: usize) -> PyResult<Vec<TreeRow>> {
        let page = py.detach(|| self.pages.page(&self.tree, prefix, start, count));
        Ok(page?.into_iter().map(|(path, inode)| self.row(py, &path, inode)).collect())
    }

    #[pyo3(signature = (path, *, follow = true))]
    fn stat(&self, py: Python<'_>, path: &[u8], follow: bool) -> PyResult<TreeRow> {
        let inode = self.tree.lookup(path, follow)?;
        Ok(self.row(py, path, inode))
    }

    #[pyo3(signature = (path, *, follow = true))]
    fn resolve(&self, py: Python<'_>, path: &[u8], follow: bool) -> PyResult<Py<PyBytes>> {
        let (_, path) = self.tree.resolve_path(path, follow)?;
        Ok(PyBytes::new(py, &path).unbind())
    }

    #[pyo3(signature = (path, /))]
    fn children(&self, py: Python<'_>, path: &[u8]) -> PyResult<Vec<TreeRow>> {
        let (directory, mut at) = self.tree.resolve_path(path, true)?;
        let Some(children) = self.tree.inode(directory).children() else {
            let message = format!("not a directory: /{}", path.escape_ascii());
            return Err(Error::new(Code::PathNotFound, message).into());
        };
        if !at.is_empty() {
            at.push(b'/');
        }
        Ok(children.iter().map(|(name, &inode)| self.row(py, &[&at[..], name].concat(), inode)).collect())
    }

    #[pyo3(signature = (path, /))]
    fn xattrs<'py>(&self, py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let inode = self.tree.lookup(path, false)?;
        let found = PyDict::new(py);
        for (name, value) in self.tree.inode(inode).metadata.xattrs.iter().flat_map(|set| set.iter()) {
            found.set_item(PyBytes::new(py, name), PyBytes::new(py, value))?;
        }
        Ok(found)
    }

    #[pyo3(signature = (path, offset, length, /))]
    fn read(&self, py: Python<'_>, path: &[u8], offset: u64, length: usize) -> PyResult<Py<PyBytes>> {
        let bytes = py.detach(|| -> Result<_> {
            let inode = self.tree.lookup(path, true)?;
            let InodeKind::File(content) = &self.tree.inode(inode).kind else {
                let message = format!("not a regular file: /{}", path.escape_ascii());
                return Err(Error::new(Code::PathNotFound, message));
            };
            // Memory follows what is there, not what was asked for.
            let there = content.size.saturating_sub(offset).min(length as u64).min(READ_MAX);
            let mut buffer = vec![0; usize::try_from(there).unwrap_or(usize::MAX)];
            let read = self.contents.read_at(content, offset, &mut buffer)?;
            buffer.truncate(read);
            Ok(buffer)
        });
        Ok(PyBytes::new(py, &bytes?).unbind())
    }

    fn dump(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        let text = py.detach(|| -> Result<_> {
            let mut text = Vec::new();
            output::dump(&self.tree, &*self.contents, |line| {
                text.extend_from_slice(line.as_bytes());
                Ok(())
            })?;
            Ok(text)
        });
        Ok(PyBytes::new(py, &text?).unbind())
    }

    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        let digest = py.detach(|| output::tree_digest(&self.tree, &*self.contents));
        Ok(digest?.as_str().to_owned())
    }

    #[pyo3(signature = (fd, /, *, compression = "none", level = 0, clamp_mtime = None, sparse = true))]
    fn write_tar(
        &self,
        py: Python<'_>,
        fd: i32,
        compression: &str,
        level: i32,
        clamp_mtime: Option<i64>,
        sparse: bool,
    ) -> PyResult<u64> {
        let compression = StreamCompression::parse(compression, level)?;
        let holes = if sparse { Holes::Kept } else { Holes::AsZeros };
        let options = tar::Options { compression, holes };
        let written = py.detach(|| {
            tar::write(WriteRequest { clamp_mtime, ..WriteRequest::new(self.source(), open(fd)?, options) })
        })?;
        Ok(written.bytes.unwrap_or_default())
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn tar_size(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> PyResult<u64> {
        Ok(py.detach(|| tar::size(&self.tree, clamp_mtime))?)
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn cpio_size(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> PyResult<u64> {
        Ok(py.detach(|| cpio::size(&self.tree, clamp_mtime))?)
    }

    #[pyo3(signature = (fd, /, *, compression = "none", level = 0, clamp_mtime = None))]
    fn write_cpio(
        &self,
        py: Python<'_>,
        fd: i32,
        compression: &str,
        level: i32,
        clamp_mtime: Option<i64>,
    ) -> PyResult<(u64, Vec<LossRow>)> {
        let options = cpio::Options { compression: StreamCompression::parse(compression, level)? };
        let written = py.detach(|| {
            cpio::write(WriteRequest { clamp_mtime, ..WriteRequest::new(self.source(), open(fd)?, options) })
        })?;
        Ok(row(py, written))
    }

    #[pyo3(signature = (path, /, *, uuid, created, folder = None, whole_blocks = false, clamp_mtime = None))]
    #[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
    fn write_erofs(
        &self,
        py: Python<'_>,
        path: PathBuf,
        uuid: [u8; 16],
        created: i64,
        folder: Option<PathBuf>,
        whole_blocks: bool,
        clamp_mtime: Option<i64>,
    ) -> PyResult<(u64, Vec<LossRow>)> {
        let options = erofs::Options { compression: None, whole_blocks };
        let request = WriteRequest::new(self.source(), Target::Path(&path), options);
        let folder = folder.as_deref();
        let written = py.detach(|| erofs::write(WriteRequest { uuid, created, clamp_mtime, folder, ..request }))?;
        Ok(row(py, written))
    }

    #[pyo3(signature = (
        path, /, *, uuid, created, compression, level = None, cluster = 65536, threads = 1, clamp_mtime = None,
        progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
    fn write_compressed_erofs(
        &self,
        py: Python<'_>,
        path: PathBuf,
        uuid: [u8; 16],
        created: i64,
        compression: &str,
        level: Option<i32>,
        cluster: usize,
        threads: usize,
        clamp_mtime: Option<i64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, Vec<LossRow>)> {
        let compression = Some(erofs::Compression::parse(compression, level, cluster)?);
        let options = erofs::Options { compression, whole_blocks: false };
        told(py, progress, |progress| {
            let request = WriteRequest::new(self.source(), Target::Path(&path), options);
            let progress = Some(progress);
            erofs::write(WriteRequest { uuid, created, clamp_mtime, threads, progress, ..request })
        })
    }

    #[pyo3(signature = (fd, /, *, uuid, created, free = None, size = None, journal = false, clamp_mtime = None))]
    #[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
    fn write_ext4(
        &self,
        py: Python<'_>,
        fd: i32,
        uuid: [u8; 16],
        created: i64,
        free: Option<u64>,
        size: Option<u64>,
        journal: bool,
        clamp_mtime: Option<i64>,
    ) -> PyResult<(u64, Vec<LossRow>)> {
        let size = size.map_or(ext4::Size::Free(free.unwrap_or_default()), ext4::Size::Total);
        let options = ext4::Options { size, journal };
        let written = py.detach(|| {
            let request = WriteRequest::new(self.source(), open(fd)?, options);
            ext4::write(WriteRequest { uuid, created, clamp_mtime, ..request })
        })?;
        Ok(row(py, written))
    }

    #[pyo3(signature = (path, /, *, compression, created, folder, clamp_mtime = None, progress = None))]
    #[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
    fn write_squashfs(
        &self,
        py: Python<'_>,
        path: PathBuf,
        compression: &SquashfsCompression,
        created: i64,
        folder: PathBuf,
        clamp_mtime: Option<i64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, Vec<LossRow>)> {
        let options = squashfs::Options { compression: compression.0 };
        told(py, progress, |progress| {
            let request = WriteRequest::new(self.source(), Target::Path(&path), options);
            let (folder, progress) = (Some(&*folder), Some(progress));
            squashfs::write(WriteRequest { created, clamp_mtime, folder, progress, ..request })
        })
    }

    #[pyo3(signature = (fd, /, *, clamp_mtime = None))]
    fn write_squashfs_tar(&self, py: Python<'_>, fd: i32, clamp_mtime: Option<i64>) -> PyResult<Vec<LossRow>> {
        let written = py.detach(|| {
            squashfs_tar::write(WriteRequest { clamp_mtime, ..WriteRequest::new(self.source(), open(fd)?, ()) })
        })?;
        Ok(losses(py, written.losses))
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn squashfs_losses(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> Vec<LossRow> {
        let lost = py.detach(|| squashfs_tar::losses(&self.tree, clamp_mtime));
        losses(py, lost)
    }

    fn devices(&self, py: Python<'_>) -> Vec<(Py<PyBytes>, u32, u32)> {
        let numbers = |kind: &InodeKind| match *kind {
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => Some((major, minor)),
            _ => None,
        };
        let found = self.tree.walk().filter_map(|step| {
            let (major, minor) = numbers(&self.tree.inode(step.inode).kind)?;
            Some((PyBytes::new(py, &step.path).unbind(), major, minor))
        });
        found.collect()
    }

    #[pyo3(signature = (path, /, *, owners, record = false, folder = None, clamp_mtime = None))]
    fn write_directory(
        &self,
        py: Python<'_>,
        path: PathBuf,
        owners: bool,
        record: bool,
        folder: Option<PathBuf>,
        clamp_mtime: Option<i64>,
    ) -> PyResult<Vec<LossRow>> {
        let options = directory::Options { owners, record };
        let threads = available_parallelism().map_or(1, usize::from);
        let request = WriteRequest::new(self.source(), Target::Path(&path), options);
        let folder = folder.as_deref();
        let written = py.detach(|| directory::write(WriteRequest { clamp_mtime, threads, folder, ..request }))?;
        Ok(losses(py, written.losses))
    }
}
