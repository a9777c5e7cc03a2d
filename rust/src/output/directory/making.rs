//! Staged files are made: small ones by several threads, for most of their cost is the file system's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{self, Mode, OFlags, Timespec, Timestamps};
use rustix::io::{self, Errno};

use super::failure::failed;
use super::staged::{MetadataHash, MetadataHashes, Spot, StagedFiles, open_folder};
use crate::entry::{Metadata, Mtime};
use crate::error::{Code, Error, Result};

/// Batches that wait.
const QUEUE: usize = 4;

/// What a file is given as soon as it is made, so that most need nothing more.
#[derive(Clone, Copy, Default)]
pub(super) struct Early {
    mode: u16,
    mtime: Mtime,
}

impl Early {
    /// Its owner may read it, whatever the mode: outputs beside the directory do.
    pub fn of(metadata: &Metadata) -> Self {
        Early { mode: metadata.mode & 0o777 | 0o400, mtime: metadata.mtime }
    }
}

/// A small file to be made.
pub(super) struct SmallFile {
    pub spot: Spot,
    pub early: Early,
    /// Where its bytes end in those of the batch.
    pub end: usize,
}

/// Some small files of a layer, to be made by one thread.
pub(super) struct SmallFiles {
    files: Arc<StagedFiles>,
    pub jobs: Vec<SmallFile>,
    pub bytes: Vec<u8>,
    outcome: Result<()>,
}

impl SmallFiles {
    pub fn new(files: &Arc<StagedFiles>) -> Self {
        files.begin();
        let outcome = Err(Error::new(Code::Internal, "a thread that makes files has ended"));
        SmallFiles { files: Arc::clone(files), jobs: Vec::new(), bytes: Vec::new(), outcome }
    }
}

impl Drop for SmallFiles {
    /// Whatever became of it, nobody waits for it any more.
    fn drop(&mut self) {
        self.files.done(std::mem::replace(&mut self.outcome, Ok(())));
    }
}

/// Where files are made.
pub(super) struct Staging {
    pub folder: OwnedFd,
    pub states: MetadataHashes,
}

impl Staging {
    /// Makes a file that is to be written. In its folder if it can be; else alone, which is noted.
    pub fn create(&self, at: Option<&OwnedFd>, files: &StagedFiles, spot: &Spot, early: Early) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Its mode may forbid writing: the file descriptor that creates it may write all the same.
        let mode = Mode::from_raw_mode(early.mode.into());
        if let Some(folder) = at {
            match fs::openat(folder, &*spot.name, flags, mode) {
                // The layer has the name twice, or the file system takes two names for one, or not this one.
                Err(Errno::EXIST | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => {
                    files.lock().put_alone(spot.serial)
                }
                made => return made.map_err(|error| failed("write the staged file", &spot.name, error)),
            }
        }
        let name = files.lock().alone(spot.serial);
        let made = fs::openat(&self.folder, &*name, flags, mode);
        made.map_err(|error| failed("write the staged file", &name, error))
    }

    /// Gives a complete file its mode and time, and notes what it has then. What it does not take is tried again, and
    /// told of, when the tree is written.
    pub fn settle(&self, file: impl AsFd, files: &StagedFiles, serial: u64, early: Early) {
        let state = self.given(file.as_fd(), early).ok();
        files.lock().note(serial, state);
    }

    fn given(&self, file: BorrowedFd<'_>, early: Early) -> Result<MetadataHash, Errno> {
        let mtime = Timespec { tv_sec: early.mtime.seconds, tv_nsec: early.mtime.nanoseconds.into() };
        fs::futimens(file, &Timestamps { last_access: mtime, last_modification: mtime })?;
        let seen = fs::fstat(file)?;
        if (seen.st_mode & 0o7777) as u16 == early.mode {
            return Ok(self.states.of_stat(&seen));
        }
        // The process's umask took a bit.
        fs::fchmod(file, Mode::from_raw_mode(early.mode.into()))?;
        Ok(self.states.of_stat(&fs::fstat(file)?))
    }

    fn make(&self, batch: &SmallFiles) -> Result<()> {
        let (mut folder, mut start) = (None, 0);
        for SmallFile { spot, early, end } in &batch.jobs {
            let here = match folder.take() {
                Some((number, open)) if number == spot.folder => open,
                _ => open_folder(&self.folder, batch.files.layer, spot.folder)
                    .map_err(|error| failed("open the staging folder of", &spot.name, error))?,
            };
            let file = self.create(here.as_ref(), &batch.files, spot, *early)?;
            write_all(&file, &batch.bytes[start..*end])?;
            self.settle(&file, &batch.files, spot.serial, *early);
            (folder, start) = (Some((spot.folder, here)), *end);
        }
        Ok(())
    }
}

/// Writes all bytes.
pub(super) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = io::retry_on_intr(|| io::write(&file, bytes));
        let written = written.map_err(|error| Error::io("cannot write a file", &error.into()))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Threads that make small files.
pub(super) struct Makers {
    sender: Option<SyncSender<SmallFiles>>,
    threads: Vec<JoinHandle<()>>,
}

impl Makers {
    pub fn start(staging: &Arc<Staging>, count: usize) -> Result<Self> {
        let (sender, receiver) = sync_channel::<SmallFiles>(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..count.max(1)).map(|_| {
            let (staging, receiver) = (Arc::clone(staging), Arc::clone(&receiver));
            let work = move || {
                while let Some(mut batch) = next(&receiver) {
                    batch.outcome = staging.make(&batch);
                }
            };
            std::thread::Builder::new().name("files".into()).spawn(work).map_err(|error| Error::thread(&error))
        });
        Ok(Makers { threads: threads.collect::<Result<_>>()?, sender: Some(sender) })
    }

    /// A way to hand batches over.
    pub fn sender(&self) -> Option<SyncSender<SmallFiles>> {
        self.sender.clone()
    }
}

fn next(receiver: &Mutex<Receiver<SmallFiles>>) -> Option<SmallFiles> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Drop for Makers {
    fn drop(&mut self) {
        self.sender = None;
        for thread in self.threads.drain(..) {
            // A panic has been printed, and its batch has failed.
            let _ = thread.join();
        }
    }
}
