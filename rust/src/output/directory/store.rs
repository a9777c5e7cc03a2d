//! Where contents wait for a directory: one file each, in a staging folder.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{self, CWD, Mode, OFlags};

use super::failure::failed;
use super::making::{Early, Makers, SmallFile, SmallFiles, Staging, write_all};
use super::staged::{MetadataHashes, Spot, StagedFiles, folder_name, open_folder};
use crate::contents::{Content, Contents, Extents, LayerStore, Store, read_runs};
use crate::entry::Metadata;
use crate::error::{Error, Result};
use crate::output::file_range::copy_range;

/// Folders of all layers in the staging folder: file systems without ext4's `dir_nlink` take no more than 31,998 in one.
const FOLDERS_MAX: u32 = 30_000;
/// Files up to this size are made by several threads.
const SMALL: u64 = 64 << 10;
/// Bytes of small files that are handed over together, and how many files at most.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FILES: usize = 128;

/// One file for each content, in a staging folder.
pub struct DirectoryStore {
    pub(super) staging: Arc<Staging>,
    makers: OnceLock<Makers>,
    threads: usize,
    layers: Mutex<BTreeMap<u32, Arc<StagedFiles>>>,
    /// How many folders all layers have, and may have.
    folders: AtomicU32,
    folders_max: u32,
    /// Bytes of files that have their places already.
    pub(super) placed: AtomicU64,
}

impl DirectoryStore {
    /// Stages in `folder`, which must be on the output's file system; up to `threads` threads make small files.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(folder: &Path, threads: usize) -> Result<Self> {
        Ok(DirectoryStore {
            staging: Arc::new(Staging { folder: open_directory(folder)?, states: MetadataHashes::default() }),
            makers: OnceLock::new(),
            threads,
            layers: Mutex::default(),
            folders: AtomicU32::new(0),
            folders_max: FOLDERS_MAX,
            placed: AtomicU64::new(0),
        })
    }

    /// With so many folders in the staging folder at most; files of others lie in it one by one.
    #[must_use]
    pub fn with_folders(self, most: u32) -> Self {
        DirectoryStore { folders_max: most, ..self }
    }

    /// Bytes of files that have their names already; grows while the tree is written.
    pub fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// The staged files of a layer; an empty set for a layer that has not come.
    pub(super) fn files(&self, layer: u32) -> Arc<StagedFiles> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(layers.entry(layer).or_insert_with(|| Arc::new(StagedFiles::new(layer))))
    }

    fn makers(&self) -> Result<&Makers> {
        if let Some(makers) = self.makers.get() {
            return Ok(makers);
        }
        let made = Makers::start(&self.staging, self.threads)?;
        // Another layer may have been faster.
        Ok(self.makers.get_or_init(|| made))
    }
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Error::io(format_args!("cannot open {}", path.display()), &error.into()))
}

impl Store for Arc<DirectoryStore> {
    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        let files = self.files(index);
        Ok(Box::new(StagedLayer {
            store: Arc::clone(self),
            batch: None,
            layer: index,
            path: Vec::new(),
            current: None,
            extents: Extents::default(),
            files,
        }))
    }
}

impl Contents for DirectoryStore {
    /// Works until the tree was written: then the files have moved.
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (folder, name, _) = self.files(content.layer).lock().find(content.position);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open_folder(&self.staging.folder, content.layer, folder)
            .and_then(|folder| {
                fs::openat(folder.as_ref().unwrap_or(&self.staging.folder), &*name, flags, Mode::empty())
            })
            .map_err(|error| failed("read the staged file", &name, error))?;
        let file = File::from(file);
        read_runs(content, offset, buffer, |position, part| {
            file.read_exact_at(part, position).map_err(|error| Error::io("cannot read a staged file", &error))
        })
    }

    fn store(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// The file that is taken now.
struct Current {
    spot: Spot,
    early: Early,
    /// Where it is written to; `None` while its bytes are collected in the batch.
    file: Option<File>,
}

struct StagedLayer {
    store: Arc<DirectoryStore>,
    files: Arc<StagedFiles>,
    /// Small files, until there are enough; the last one may not be complete.
    batch: Option<SmallFiles>,
    layer: u32,
    /// Of the file that begins next.
    path: Vec<u8>,
    current: Option<Current>,
    extents: Extents,
}

impl StagedLayer {
    fn current(&mut self) -> &mut Current {
        match &mut self.current {
            Some(current) => current,
            None => unreachable!("data come between begin and end"),
        }
    }

    fn batch(&mut self) -> &mut SmallFiles {
        self.batch.get_or_insert_with(|| SmallFiles::new(&self.files))
    }

    /// The file that is taken now, as one that can be written to: with the bytes that were collected of it.
    fn file(&mut self) -> Result<&File> {
        let (store, files, layer) = (Arc::clone(&self.store), Arc::clone(&self.files), self.layer);
        let current = self.current();
        if current.file.is_none() {
            let folder = open_folder(&store.staging.folder, layer, current.spot.folder)
                .map_err(|error| failed("open the staging folder of", &current.spot.name, error))?;
            let file = store.staging.create(folder.as_ref(), &files, &current.spot, current.early)?;
            if let Some(batch) = &mut self.batch {
                let start = batch.jobs.last().map_or(0, |job| job.end);
                write_all(&file, &batch.bytes[start..])?;
                batch.bytes.truncate(start);
            }
            self.current().file = Some(file.into());
        }
        match &self.current().file {
            Some(file) => Ok(file),
            None => unreachable!("it was just made"),
        }
    }

    /// Hands the collected files over.
    fn flush(&mut self) -> Result<()> {
        if let Some(batch) = self.batch.take() {
            // A maker that does not take the batch has failed; the batch then reports it.
            let _ = self.store.makers()?.sender().map(|sender| sender.send(batch));
        }
        self.files.check()
    }
}

impl LayerStore for StagedLayer {
    fn called(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
    }

    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        let room = self.store.folders.load(Ordering::Relaxed) < self.store.folders_max;
        let (spot, new) = self.files.lock().add(&self.path, room);
        self.path.clear();
        if new {
            self.store.folders.fetch_add(1, Ordering::Relaxed);
            let name = folder_name(self.layer, spot.folder);
            fs::mkdirat(&self.store.staging.folder, &*name, Mode::RWXU)
                .map_err(|error| failed("make the staging folder", name.as_bytes(), error))?;
        }
        self.current = Some(Current { spot, early: Early::of(metadata), file: None });
        if size > SMALL {
            self.file()?;
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.extents.data(bytes.len() as u64);
        // Whoever said that the file is small may have been wrong.
        if self.extents.size() > SMALL || self.current().file.is_some() {
            return write_all(self.file()?, bytes);
        }
        self.batch().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn take(&mut self, source: &File, offset: u64, length: u64) -> Result<()> {
        let at = self.extents.size();
        let file = self.file()?;
        copy_range(source, offset, file, at, length).map_err(|error| Error::io("cannot write a file", &error))?;
        fs::seek(file, fs::SeekFrom::Start(at + length))
            .map_err(|error| Error::io("cannot write a file", &error.into()))?;
        self.extents.data(length);
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.extents.hole(length);
        let offset = self.extents.size();
        fs::seek(self.file()?, fs::SeekFrom::Start(offset))
            .map(drop)
            .map_err(|error| Error::io("cannot write a file", &error.into()))
    }

    fn end(&mut self) -> Result<Content> {
        let size = self.extents.size();
        // The file system keeps the holes: for a reader, all of the file is data.
        if self.extents.take().is_some() {
            fs::ftruncate(self.file()?, size).map_err(|error| Error::io("cannot write a file", &error.into()))?;
        }
        let Some(Current { spot, early, file }) = self.current.take() else {
            unreachable!("end comes after begin");
        };
        let serial = spot.serial;
        if let Some(file) = file {
            self.store.staging.settle(&file, &self.files, serial, early);
        } else {
            let batch = self.batch();
            let end = batch.bytes.len();
            batch.jobs.push(SmallFile { spot, early, end });
            if end >= BATCH_BYTES || batch.jobs.len() >= BATCH_FILES {
                self.flush()?;
            }
        }
        Ok(Content { layer: self.layer, position: serial, size, extents: None })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.files.wait()
    }
}

impl Drop for StagedLayer {
    /// Nothing is made any more when the layer is gone, so that its folder can be removed.
    fn drop(&mut self) {
        self.batch = None;
        let _ = self.files.wait();
    }
}
