//! What an inode of a directory is given: owner, extended attributes, mode, time.
//!
//! Each is tried, and then looked at: a file system that takes a call and does nothing (vfat, CIFS, 9p) is told from one
//! that did it. What did not arrive is a loss, whoever refused it and however; only a disk that fails ends the work.

use std::os::fd::{AsRawFd, OwnedFd};

#[cfg(target_os = "linux")]
use rustix::fs::OFlags;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::failure::failed;
use super::staged::{MetadataHash, MetadataHashes};
use crate::entry::{Metadata, Mtime, permitted};
use crate::error::Result;
use crate::output::refused::is_refusal;
use crate::output::{Losses, clamped};
use crate::tree::{Inode, InodeKind};

/// Where an inode's metadata are set.
pub(super) enum InodePlace<'a> {
    Open(&'a OwnedFd),
    Named(&'a OwnedFd, &'a [u8]),
}

impl InodePlace<'_> {
    fn stat(&self) -> Result<Stat, Errno> {
        match self {
            InodePlace::Open(fd) => fs::fstat(fd),
            InodePlace::Named(at, name) => fs::statat(at, *name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn change_owner(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            InodePlace::Open(fd) => fs::fchown(fd, owner, group),
            InodePlace::Named(at, name) => fs::chownat(at, *name, owner, group, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            InodePlace::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            InodePlace::Named(at, file) => {
                // No call sets an attribute below an open folder; a link in /proc leads to the folder itself, and the
                // name in it is not followed.
                let through = [format!("/proc/self/fd/{}/", at.as_raw_fd()).as_bytes(), file].concat();
                fs::lsetxattr(&*through, name, value, XattrFlags::empty())
            }
        }
    }

    pub(super) fn change_mode(&self, mode: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode.into());
        let (at, name) = match self {
            InodePlace::Open(fd) => return fs::fchmod(fd, mode),
            InodePlace::Named(at, name) => (at, *name),
        };
        change_mode_of(at, name, mode)
    }

    fn set_time(&self, mtime: Mtime) -> Result<(), Errno> {
        let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        match self {
            InodePlace::Open(fd) => fs::futimens(fd, &times),
            InodePlace::Named(at, name) => fs::utimensat(at, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

/// Changes a device or pipe, never what a link in its place leads to: `fchmodat` of Linux has no such flag.
#[cfg(target_os = "linux")]
fn change_mode_of(at: &OwnedFd, name: &[u8], mode: Mode) -> Result<(), Errno> {
    let node = fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode) {
        // There is no /proc here.
        Err(Errno::NOENT) => fs::chmodat(at, name, mode, AtFlags::empty()),
        changed => changed,
    }
}

/// The same where `fchmodat` has the flag.
#[cfg(not(target_os = "linux"))]
fn change_mode_of(at: &OwnedFd, name: &[u8], mode: Mode) -> Result<(), Errno> {
    fs::chmodat(at, name, mode, AtFlags::SYMLINK_NOFOLLOW)
}

/// The attribute in which containers' tools, and fuse-overlayfs, look for what a directory cannot hold.
const RECORD: &[u8] = b"user.containers.override_stat";

/// How metadata are set in one directory, and what could not be.
pub(super) struct Setting {
    pub owners: bool,
    /// Owner and group of what this process makes.
    pub own: (u32, u32),
    pub record: bool,
    pub clamp: Option<i64>,
    pub losses: Losses,
}

impl Setting {
    /// Whether a file that has this already needs nothing more.
    pub fn has_all(&mut self, states: &MetadataHashes, state: MetadataHash, inode: &Inode, path: &[u8]) -> bool {
        let Metadata { mode, uid, gid, mtime, xattrs } = &inode.metadata;
        if self.record || xattrs.is_some() {
            return false;
        }
        let owner = if self.owners { (*uid, *gid) } else { self.own };
        let owned = owner == (*uid, *gid);
        if states.of(owner, permitted(*mode, owned), clamped(*mtime, self.clamp)) != state {
            return false;
        }
        if !owned {
            self.losses.add("owner", path, format!("{uid}:{gid}"));
        }
        true
    }

    /// Owner first, for it clears setuid and capabilities; time last.
    ///
    /// # Errors
    /// `io_error` for what is no refusal, naming the entry.
    pub fn set(&mut self, place: &InodePlace<'_>, inode: &Inode, path: &[u8]) -> Result<()> {
        let Metadata { mode, uid, gid, mtime, xattrs } = &inode.metadata;
        let losses = &mut self.losses;
        // For chown the highest number means "leave it".
        if self.owners && *uid != u32::MAX && *gid != u32::MAX {
            done(place.change_owner(*uid, *gid)).map_err(|error| failed("change the owner of", path, error))?;
        }
        for (name, value) in xattrs.iter().flat_map(|set| set.iter()) {
            if let Err(error) = place.set_xattr(name, value) {
                losses.add("xattr", path, format!("{}: {error}", name.escape_ascii()));
            }
        }
        let seen = place.stat().map_err(|error| failed("read the owner of", path, error))?;
        let kept = FileType::from_raw_mode(seen.st_mode);
        let mut recorded = false;
        if self.record && matches!(kept, FileType::RegularFile | FileType::Directory) {
            // After the image's own attributes: what a layer says in this one means nothing here.
            let recording = place.set_xattr(RECORD, record(inode).as_bytes());
            recorded = recording.is_ok();
            if let Err(error) = recording {
                losses.add("xattr", path, format!("{}: {error}", RECORD.escape_ascii()));
            }
        }
        let owned = (seen.st_uid, seen.st_gid) == (*uid, *gid);
        if !owned && !recorded {
            losses.add("owner", path, format!("{uid}:{gid}"));
        }
        let mut mode = permitted(*mode, owned);
        if recorded {
            // The record holds the mode that counts; the file's own must let its readers read the record.
            mode |= if kept == FileType::Directory { 0o700 } else { 0o600 };
        }
        // The mode of a symbolic link is nothing that a file system keeps.
        let has_mode = !matches!(inode.kind, InodeKind::Symlink(_));
        if has_mode {
            done(place.change_mode(mode)).map_err(|error| failed("change the mode of", path, error))?;
        }
        let mtime = clamped(*mtime, self.clamp);
        let timed = done(place.set_time(mtime)).map_err(|error| failed("set the time of", path, error))?;
        let seen = place.stat().map_err(|error| failed("read the mode of", path, error))?;
        if has_mode && (seen.st_mode & 0o7777) as u16 != mode {
            losses.add("mode", path, "the file system does not keep modes");
        }
        if (seen.st_mtime, seen.st_mtime_nsec) != (mtime.seconds, mtime.nanoseconds.into()) {
            let what = if timed { "the file system has no such time" } else { "times may not be set here" };
            losses.add("mtime", path, what);
        }
        Ok(())
    }
}

/// What containers' tools read: owner, group, mode in octal digits, kind.
fn record(inode: &Inode) -> String {
    let Metadata { mode, uid, gid, .. } = &inode.metadata;
    let kind = match &inode.kind {
        InodeKind::File(_) => "file".to_owned(),
        InodeKind::Directory(_) => "dir".to_owned(),
        InodeKind::Symlink(_) => "symlink".to_owned(),
        InodeKind::Fifo => "pipe".to_owned(),
        InodeKind::BlockDevice { major, minor } => format!("block-{major}-{minor}"),
        InodeKind::CharDevice { major, minor } => format!("char-{major}-{minor}"),
    };
    format!("{uid}:{gid}:{mode:04o}:{kind}")
}

/// Whether a call was done, or refused.
fn done(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Err(error) if is_refusal(error) => Ok(false),
        result => result.map(|()| true),
    }
}
