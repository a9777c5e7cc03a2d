//! Where contents wait for a directory: one file each, in a staging folder.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, CWD, Mode, OFlags};

use super::failure::failed;
use crate::contents::{Content, Contents, Extents, LayerStore, Store, read_runs};
use crate::entry::Metadata;
use crate::error::{Error, Result};
use crate::output::file_range::copy_range;

/// One file for each content, in a staging folder.
pub struct DirectoryStore {
    pub(super) folder: OwnedFd,
    /// Bytes of files that have their places already.
    pub(super) placed: AtomicU64,
}

impl DirectoryStore {
    /// Stages in `folder`, which must be on the output's file system.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(DirectoryStore { folder: open_directory(folder)?, placed: AtomicU64::new(0) })
    }

    /// Bytes of files that have their names already; grows while the tree is written.
    pub fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// The staged file of a content.
    pub(super) fn name(content: &Content) -> String {
        staged_name(content.layer, content.position)
    }
}

fn staged_name(layer: u32, serial: u64) -> String {
    format!("{layer}.{serial}")
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Error::io(format_args!("cannot open {}", path.display()), &error.into()))
}

impl Store for Arc<DirectoryStore> {
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        Ok(Box::new(StagedLayer {
            store: Arc::clone(self),
            layer: index,
            serial: 0,
            current: None,
            extents: Extents::default(),
        }))
    }
}

impl Contents for DirectoryStore {
    /// Works until the tree was written: then the files have moved.
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let name = DirectoryStore::name(content);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.folder, &name, flags, Mode::empty())
            .map_err(|error| failed("read the staged file", name.as_bytes(), error))?;
        let file = File::from(file);
        read_runs(content, offset, buffer, |position, part| {
            file.read_exact_at(part, position).map_err(|error| Error::io("cannot read a staged file", &error))
        })
    }
}

struct StagedLayer {
    store: Arc<DirectoryStore>,
    layer: u32,
    serial: u64,
    current: Option<File>,
    extents: Extents,
}

impl StagedLayer {
    fn file(&mut self) -> &mut File {
        match &mut self.current {
            Some(file) => file,
            None => unreachable!("data come between begin and end"),
        }
    }
}

impl LayerStore for StagedLayer {
    fn begin(&mut self, _: &Metadata, _: u64) -> Result<()> {
        let name = staged_name(self.layer, self.serial);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.store.folder, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("write the staged file", name.as_bytes(), error))?;
        self.current = Some(file.into());
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.extents.data(bytes.len() as u64);
        self.file().write_all(bytes).map_err(|error| Error::io("cannot write a file", &error))
    }

    fn take(&mut self, source: &File, offset: u64, length: u64) -> Result<()> {
        let at = self.extents.size();
        copy_range(source, offset, self.file(), at, length)
            .map_err(|error| Error::io("cannot write a file", &error))?;
        self.extents.data(length);
        fs::seek(self.file(), fs::SeekFrom::Start(at + length))
            .map(drop)
            .map_err(|error| Error::io("cannot write a file", &error.into()))
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.extents.hole(length);
        let offset = self.extents.size();
        fs::seek(self.file(), fs::SeekFrom::Start(offset))
            .map(drop)
            .map_err(|error| Error::io("cannot write a file", &error.into()))
    }

    fn end(&mut self) -> Result<Content> {
        let size = self.extents.size();
        // The file system keeps the holes: for a reader, all of the file is data.
        if self.extents.take().is_some() {
            self.file().set_len(size).map_err(|error| Error::io("cannot write a file", &error))?;
        }
        self.current = None;
        self.serial += 1;
        Ok(Content { layer: self.layer, position: self.serial - 1, size, extents: None })
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
