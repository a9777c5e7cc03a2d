//! Which files of a layer are staged, where, and what they have been given.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::entry::Mtime;
use crate::error::{Error, Result};

/// A file lies in the staging folder itself, under a name that only its place in the layer gives.
const ALONE: u32 = 0;
/// A name that every file system takes.
const LONGEST_NAME: usize = 255;

/// Owner, group, mode and time of an inode, as one number to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetadataHash(u64);

/// Makes [`MetadataHash`]s of one store, by a hash that no image can know.
#[derive(Default)]
pub(super) struct MetadataHashes(RandomState);

impl MetadataHashes {
    pub fn of(&self, owner: (u32, u32), mode: u16, mtime: Mtime) -> MetadataHash {
        MetadataHash(self.0.hash_one((owner, mode, mtime)))
    }

    /// What a file has.
    pub fn of_stat(&self, seen: &Stat) -> MetadataHash {
        let mtime = Mtime { seconds: seen.st_mtime, nanoseconds: seen.st_mtime_nsec as u32 };
        self.of((seen.st_uid, seen.st_gid), (seen.st_mode & 0o7777) as u16, mtime)
    }
}

/// One staged file.
#[derive(Clone, Copy)]
struct File {
    /// The folder in the staging folder, from 1 on, or [`ALONE`].
    folder: u32,
    /// Where its name ends in those of the layer.
    name_end: u64,
    /// What it has, if that is known.
    state: Option<MetadataHash>,
}

/// The files of a layer.
///
/// Files of one folder of the layer lie in one folder here, under their own names, so that the whole folder can become
/// that of the tree.
pub(super) struct Files {
    layer: u32,
    files: Vec<File>,
    names: Vec<u8>,
    /// The files in each folder.
    counts: Vec<u32>,
    hasher: RandomState,
    /// By a keyed hash of their paths: what is kept does not grow with these, and two folders in one do no harm.
    folders: HashMap<u64, u32>,
}

/// Where a file is to be made.
pub(super) struct Spot {
    pub serial: u64,
    pub folder: u32,
    pub name: Vec<u8>,
}

impl Files {
    pub fn new(layer: u32) -> Self {
        Files {
            layer,
            files: Vec::new(),
            names: Vec::new(),
            counts: vec![0],
            hasher: RandomState::new(),
            folders: HashMap::new(),
        }
    }

    /// A place for the next file, and whether its folder is new; without `room` there is no new one.
    pub fn add(&mut self, path: &[u8], room: bool) -> (Spot, bool) {
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = slash.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let serial = self.files.len() as u64;
        // A marker is in no tree.
        let folder = if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with(b".wh.") {
            ALONE
        } else {
            let next = self.counts.len() as u32;
            match self.folders.entry(self.hasher.hash_one(parent)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) if room => *new.insert(next),
                Entry::Vacant(_) => ALONE,
            }
        };
        let new = folder as usize == self.counts.len();
        if new {
            self.counts.push(0);
        }
        if folder != ALONE {
            self.names.extend_from_slice(name);
            self.counts[folder as usize] += 1;
        }
        self.files.push(File { folder, name_end: self.names.len() as u64, state: None });
        let name = if folder == ALONE { self.alone(serial) } else { name.to_vec() };
        (Spot { serial, folder, name }, new)
    }

    /// The name of a file that lies alone.
    pub fn alone(&self, serial: u64) -> Vec<u8> {
        format!("{}.{serial}", self.layer).into_bytes()
    }

    /// The file could not have its place, and lies alone.
    pub fn put_alone(&mut self, serial: u64) {
        let file = &mut self.files[serial as usize];
        self.counts[file.folder as usize] -= 1;
        file.folder = ALONE;
    }

    /// What the file was given.
    pub fn note(&mut self, serial: u64, state: Option<MetadataHash>) {
        self.files[serial as usize].state = state;
    }

    /// The folder of a file that was staged, its name there, and what it has.
    pub fn find(&self, serial: u64) -> (u32, Vec<u8>, Option<MetadataHash>) {
        let file = self.files[serial as usize];
        let name = if file.folder == ALONE { self.alone(serial) } else { self.name(serial as usize).to_vec() };
        (file.folder, name, file.state)
    }

    /// The folder in which a file lies under this very name.
    pub fn folder_with(&self, serial: u64, name: &[u8]) -> Option<u32> {
        let folder = self.files[serial as usize].folder;
        (folder != ALONE && self.name(serial as usize) == name).then_some(folder)
    }

    /// Files in a folder.
    pub fn count(&self, folder: u32) -> u32 {
        self.counts[folder as usize]
    }

    fn name(&self, serial: usize) -> &[u8] {
        let start = if serial == 0 { 0 } else { self.files[serial - 1].name_end };
        &self.names[start as usize..self.files[serial].name_end as usize]
    }
}

/// The name of a layer's folder in the staging folder.
pub(super) fn folder_name(layer: u32, folder: u32) -> String {
    format!("{layer}-{folder}")
}

/// What opens a folder for the names in it alone.
#[cfg(target_os = "linux")]
const HANDLE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const HANDLE: OFlags = OFlags::RDONLY;

/// Opens a folder of the staging folder; `None` for the staging folder itself.
pub(super) fn open_folder(staging: &OwnedFd, layer: u32, folder: u32) -> Result<Option<OwnedFd>, Errno> {
    if folder == ALONE {
        return Ok(None);
    }
    let flags = HANDLE | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(staging, folder_name(layer, folder), flags, Mode::empty()).map(Some)
}

/// The files of a layer while it arrives.
pub(super) struct StagedFiles {
    pub layer: u32,
    files: Mutex<Files>,
    work: Mutex<PendingWork>,
    idle: Condvar,
}

/// What others do for a layer.
#[derive(Default)]
struct PendingWork {
    pending: usize,
    failure: Option<Error>,
}

impl StagedFiles {
    pub fn new(layer: u32) -> Self {
        StagedFiles { layer, files: Mutex::new(Files::new(layer)), work: Mutex::default(), idle: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some work was given away.
    pub fn begin(&self) {
        self.work().pending += 1;
    }

    /// It was done.
    pub fn done(&self, result: Result<()>) {
        let mut work = self.work();
        work.pending -= 1;
        if let Err(error) = result {
            work.failure.get_or_insert(error);
        }
        self.idle.notify_all();
    }

    /// The failure of any work so far.
    pub fn check(&self) -> Result<()> {
        self.work().failure.take().map_or(Ok(()), Err)
    }

    /// Waits until all is done.
    pub fn wait(&self) -> Result<()> {
        let mut work = self.work();
        while work.pending > 0 {
            work = self.idle.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.failure.take().map_or(Ok(()), Err)
    }

    fn work(&self) -> MutexGuard<'_, PendingWork> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
