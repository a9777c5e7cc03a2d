use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::contents::{Kept, Metered};
use super::fd::duplicate;
use super::output::SquashfsCompression;
use super::pages::Pages;
use crate::contents::{Content, Contents};
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::merge::Notices;
use crate::output::erofs::{self, ErofsStore};
use crate::output::squashfs::{self, SquashfsStore};
use crate::output::{self, BehindStream, Compression, Compressor, DirectoryStore, Loss, ext4};
use crate::tree::{self as core, InodeId, InodeKind};

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Tree {
    pub tree: core::Tree,
    notices: Notices,
    unmatched: Vec<String>,
    pub kept: Kept,
    pages: Pages,
    /// Bytes of contents that the writer has taken so far.
    packed: AtomicU64,
}

/// Most bytes of one read.
const READ_MAX: u64 = 16 << 20;

/// Path, type, mode, uid, gid, mtime seconds, nanoseconds, symlink target, size, inode number.
pub(super) type Row = (Py<PyBytes>, &'static str, u16, u32, u32, i64, u32, Py<PyBytes>, u64, usize);

/// Kind, detail, count, the first few paths.
pub(super) type LossRow = (&'static str, String, u64, Vec<Py<PyBytes>>);

pub(super) fn losses(py: Python<'_>, losses: Vec<Loss>) -> Vec<LossRow> {
    let path = |path: &Vec<u8>| PyBytes::new(py, path).unbind();
    let row = |loss: Loss| (loss.kind, loss.detail, loss.count, loss.paths.iter().map(path).collect());
    losses.into_iter().map(row).collect()
}

impl Tree {
    pub(super) fn new(tree: core::Tree, notices: Notices, unmatched: Vec<String>, kept: Kept) -> Self {
        Tree { tree, notices, unmatched, kept, pages: Pages::default(), packed: AtomicU64::new(0) }
    }

    pub(super) fn row(&self, py: Python<'_>, path: &[u8], id: InodeId) -> Row {
        let inode = self.tree.inode(id);
        let (kind, target, size): (_, &[u8], _) = match &inode.kind {
            InodeKind::File(content) => ("file", b"", content.size),
            InodeKind::Directory(_) => ("directory", b"", 0),
            InodeKind::Symlink(target) => ("symlink", target, target.len() as u64),
            InodeKind::CharDevice { .. } => ("char", b"", 0),
            InodeKind::BlockDevice { .. } => ("block", b"", 0),
            InodeKind::Fifo => ("fifo", b"", 0),
        };
        let metadata = &inode.metadata;
        (
            PyBytes::new(py, path).unbind(),
            kind,
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

    /// The contents for a writer, which counts what it takes.
    fn metered(&self) -> Metered<'_> {
        self.packed.store(0, Ordering::Relaxed);
        Metered { contents: self.kept.contents(), taken: &self.packed }
    }

    /// Runs a writer on a descriptor; returns its result and the bytes written.
    fn write<T>(
        &self,
        fd: i32,
        write: impl FnOnce(&core::Tree, &dyn Contents, BehindStream) -> Result<(BehindStream, T)>,
    ) -> Result<(u64, T)> {
        let out = BehindStream::new(duplicate(fd)?)?;
        let (out, value) = write(&self.tree, &self.metered(), out)?;
        let bytes = out.finish().map_err(|error| Error::io("writing the archive", &error))?;
        Ok((bytes, value))
    }
}

/// Where a writer copies contents that wait in another store than its own.
fn for_copies(folder: Option<PathBuf>) -> Result<PathBuf> {
    folder
        .ok_or_else(|| Error::new(Code::Internal, "contents wait in another store, and there is no folder for copies"))
}

/// Calls a progress callback of Python's; what it raises ends the work and is kept.
pub(super) fn tell(progress: Option<&Py<PyAny>>, raised: &mut Option<PyErr>, done: u64, total: u64) -> Result<()> {
    let Some(progress) = progress else { return Ok(()) };
    Python::attach(|py| progress.call1(py, (done, total))).map(drop).map_err(|error| {
        *raised = Some(error);
        Error::new(Code::Cancelled, "progress was refused")
    })
}

impl Tree {
    /// What each file holds, each inode once.
    fn contents(&self) -> impl Iterator<Item = &Content> {
        let first = self.tree.walk().filter(|step| step.first);
        first.filter_map(|step| match &self.tree.inode(step.inode).kind {
            InodeKind::File(content) => Some(content),
            _ => None,
        })
    }
}

#[pymethods]
impl Tree {
    fn __len__(&self) -> usize {
        usize::try_from(self.tree.names()).unwrap_or(usize::MAX)
    }

    fn content_bytes(&self) -> u64 {
        self.contents().map(|content| content.size).sum()
    }

    fn data_bytes(&self) -> u64 {
        self.contents().flat_map(Content::runs).map(|run| run.length).sum()
    }

    fn packed(&self, py: Python<'_>) -> u64 {
        match &self.kept {
            Kept::Directory(store) => store.placed(),
            // The image is where the contents are.
            Kept::Erofs(store) if !store.is_complete() => py.detach(|| self.content_bytes()),
            Kept::Erofs(_) | Kept::Squashfs(_) | Kept::Spool(_) | Kept::Image(_) => self.packed.load(Ordering::Relaxed),
        }
    }

    fn notices(&self) -> Vec<(&'static str, u64)> {
        self.notices.iter().map(|(what, count)| (*what, *count)).collect()
    }

    fn unmatched(&self) -> Vec<String> {
        self.unmatched.clone()
    }

    #[pyo3(signature = (prefix, start, count, /))]
    fn entries(&self, py: Python<'_>, prefix: &[u8], start: usize, count: usize) -> PyResult<Vec<Row>> {
        let page = py.detach(|| self.pages.page(&self.tree, prefix, start, count));
        Ok(page?.into_iter().map(|(path, inode)| self.row(py, &path, inode)).collect())
    }

    #[pyo3(signature = (path, *, follow = true))]
    fn stat(&self, py: Python<'_>, path: &[u8], follow: bool) -> PyResult<Row> {
        let inode = self.tree.lookup(path, follow)?;
        Ok(self.row(py, path, inode))
    }

    #[pyo3(signature = (path, *, follow = true))]
    fn resolve(&self, py: Python<'_>, path: &[u8], follow: bool) -> PyResult<Py<PyBytes>> {
        let (_, path) = self.tree.resolve_path(path, follow)?;
        Ok(PyBytes::new(py, &path).unbind())
    }

    #[pyo3(signature = (path, /))]
    fn children(&self, py: Python<'_>, path: &[u8]) -> PyResult<Vec<Row>> {
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
            let read = self.kept.contents().read_at(content, offset, &mut buffer)?;
            buffer.truncate(read);
            Ok(buffer)
        });
        Ok(PyBytes::new(py, &bytes?).unbind())
    }

    fn dump(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        let text = py.detach(|| -> Result<_> {
            let mut text = Vec::new();
            output::dump(&self.tree, self.kept.contents(), |line| {
                text.extend_from_slice(line.as_bytes());
                Ok(())
            })?;
            Ok(text)
        });
        Ok(PyBytes::new(py, &text?).unbind())
    }

    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        let digest = py.detach(|| output::tree_digest(&self.tree, self.kept.contents()));
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
        let compression = Compression::parse(compression, level)?;
        let written = py.detach(|| {
            self.write(fd, |tree, contents, out| {
                let out = Compressor::new(out, compression)?;
                let write = if sparse { output::write_tar } else { output::write_plain_tar };
                Ok((write(tree, contents, out, clamp_mtime)?.finish()?, ()))
            })
        });
        let (bytes, ()) = written?;
        Ok(bytes)
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn tar_size(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> PyResult<u64> {
        let size = py.detach(|| {
            output::size_of(|contents, out| output::write_tar(&self.tree, contents, out, clamp_mtime).map(drop))
        });
        Ok(size?)
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn cpio_size(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> PyResult<u64> {
        let size = py.detach(|| {
            output::size_of(|contents, out| output::write_cpio(&self.tree, contents, out, clamp_mtime).map(drop))
        });
        Ok(size?)
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
        let compression = Compression::parse(compression, level)?;
        let written = py.detach(|| {
            self.write(fd, |tree, contents, out| {
                let out = Compressor::new(out, compression)?;
                let (out, lost) = output::write_cpio(tree, contents, out, clamp_mtime)?;
                Ok((out.finish()?, lost))
            })
        });
        let (bytes, lost) = written?;
        Ok((bytes, losses(py, lost)))
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
        let build_time = Mtime { seconds: created, nanoseconds: 0 };
        let options = erofs::Options { uuid, build_time, clamp_mtime };
        let written = py.detach(|| {
            if let Kept::Erofs(store) = &self.kept
                && !store.is_complete()
                && store.inline_tails() != whole_blocks
            {
                self.packed.store(self.content_bytes(), Ordering::Relaxed);
                let summary = erofs::finish(&self.tree, store, &options)?;
                store.publish(&path)?;
                return Ok(summary);
            }
            let made = ErofsStore::create(&for_copies(folder)?, 1)?;
            let store = Arc::new(if whole_blocks { made.of_whole_blocks() } else { made });
            let tree = output::move_contents(&self.tree, &self.metered(), &store, &mut |_| Ok(()))?;
            let summary = erofs::finish(&tree, &store, &options)?;
            store.publish(&path)?;
            Ok::<_, Error>(summary)
        });
        let summary = written?;
        Ok((summary.bytes, losses(py, summary.losses)))
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
        let build_time = Mtime { seconds: created, nanoseconds: 0 };
        let options = erofs::Options { uuid, build_time, clamp_mtime };
        let mut raised = None;
        let written = py.detach(|| {
            let compression = erofs::Compression::parse(compression, level, cluster, threads)?;
            let mut tell = |done, total| tell(progress.as_ref(), &mut raised, done, total);
            erofs::write_compressed(&self.tree, self.kept.contents(), &path, &options, &compression, &mut tell)
        });
        if let Some(raised) = raised {
            return Err(raised);
        }
        let summary = written?;
        Ok((summary.bytes, losses(py, summary.losses)))
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
        let options = ext4::Options { uuid, created, size, journal, clamp_mtime };
        let written = py.detach(|| ext4::write(&self.tree, &self.metered(), &duplicate(fd)?, &options));
        let (bytes, lost) = written?;
        Ok((bytes, losses(py, lost)))
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
        let options = squashfs::Options { created, clamp_mtime };
        let mut raised = None;
        let written = py.detach(|| {
            let total = self.content_bytes();
            let mut furthest = 0;
            let mut tell = |done: u64| {
                furthest = furthest.max(done);
                tell(progress.as_ref(), &mut raised, furthest, total)
            };
            match &self.kept {
                Kept::Squashfs(store) if store.compression().makes_the_same_as(&compression.0) => {
                    squashfs::write(&self.tree, store, &path, &options, &mut tell)
                }
                kept => {
                    let store = Arc::new(SquashfsStore::new(&compression.0, &folder, 1)?);
                    let tree = output::move_contents(&self.tree, kept.contents(), &store, &mut tell)?;
                    squashfs::write(&tree, &store, &path, &options, &mut tell)
                }
            }
        });
        if let Some(raised) = raised {
            return Err(raised);
        }
        let summary = written?;
        Ok((summary.bytes, losses(py, summary.losses)))
    }

    #[pyo3(signature = (fd, /, *, clamp_mtime = None))]
    fn write_squashfs_tar(&self, py: Python<'_>, fd: i32, clamp_mtime: Option<i64>) -> PyResult<Vec<LossRow>> {
        let written = py.detach(|| {
            self.write(fd, |tree, contents, out| output::write_squashfs_tar(tree, contents, out, clamp_mtime))
        });
        let (_, lost) = written?;
        Ok(losses(py, lost))
    }

    #[pyo3(signature = (*, clamp_mtime = None))]
    fn squashfs_losses(&self, py: Python<'_>, clamp_mtime: Option<i64>) -> Vec<LossRow> {
        let lost = py.detach(|| output::squashfs_losses(&self.tree, clamp_mtime));
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
        let lost = py.detach(|| {
            if let Kept::Directory(store) = &self.kept {
                return output::write_directory(&self.tree, store, &path, owners, record, clamp_mtime);
            }
            let store =
                Arc::new(DirectoryStore::new(&for_copies(folder)?, available_parallelism().map_or(1, usize::from))?);
            let tree = output::move_contents(&self.tree, &self.metered(), &store, &mut |_| Ok(()))?;
            output::write_directory(&tree, &store, &path, owners, record, clamp_mtime)
        });
        Ok(losses(py, lost?))
    }
}
