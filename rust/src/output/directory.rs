//! A tree as a directory of the file system.
//!
//! Contents are written to one file each while layers arrive, in a staging folder of ours; at the end every file gets
//! its metadata there and is moved to its name. Names are made through directory descriptors only, below an empty folder
//! that is ours too: no path of a layer reaches a system call, only single names of the finished tree. No name is
//! followed, even if somebody puts a link where a folder or a file of ours was.

use std::collections::btree_map;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::descriptors::RaisedLimit;
use super::{Loss, Losses, clamped, refuse_long_links};
use crate::contents::{Content, Contents, Extents, LayerStore, Store, read_runs};
use crate::entry::Metadata;
use crate::error::{Error, Result};
use crate::tree::{Inode, InodeId, InodeKind, Tree};

fn failed(what: &str, name: &[u8], error: Errno) -> Error {
    Error::io(format_args!("cannot {what} \"{}\"", name.escape_ascii()), &error.into())
}

/// One file for each content, in a staging folder.
pub struct DirectoryStore {
    folder: OwnedFd,
}

impl DirectoryStore {
    /// Stages in `folder`, which must be on the output's file system.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(DirectoryStore { folder: open_directory(folder)? })
    }

    fn name(content: &Content) -> String {
        staged_name(content.layer, content.position)
    }
}

fn staged_name(layer: u32, serial: u64) -> String {
    format!("{layer}.{serial}")
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
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

/// What a walk needs beside the tree.
struct Writing<'t> {
    tree: &'t Tree,
    store: &'t DirectoryStore,
    owners: bool,
    clamp: Option<i64>,
    ours: (u32, u32),
    /// Whether an inode with several names stands in the staging folder.
    staged: Vec<bool>,
    losses: Losses,
}

/// A directory whose children are being made.
struct Frame<'t> {
    descriptor: OwnedFd,
    inode: InodeId,
    children: btree_map::Iter<'t, Box<[u8]>, InodeId>,
    /// Length of its path in the path of the walk.
    length: usize,
}

/// Makes the tree in the empty folder `target`, on the file system of `store`'s folder; `store` is used up.
///
/// `owners` asks for the image's owners, which takes root; without it all belongs to the caller and each foreign owner
/// is a loss. Devices and extended attributes that the system refuses are losses too.
///
/// # Errors
/// `output_unsupported` for a link target over 4095 bytes; `io_error`, naming the entry.
pub fn write_directory(
    tree: &Tree,
    store: &DirectoryStore,
    target: &Path,
    owners: bool,
    clamp: Option<i64>,
) -> Result<Vec<Loss>> {
    refuse_long_links(tree)?;
    let ours = (geteuid().as_raw(), getegid().as_raw());
    let staged = vec![false; tree.inode_bound()];
    let mut writing = Writing { tree, store, owners, clamp, ours, staged, losses: Losses::default() };
    let mut path = Vec::new();
    // A deep tree holds one descriptor for each level.
    let mut raised = None;
    let root = tree.root();
    let mut stack = vec![writing.frame(open_directory(target)?, root, 0)];
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.length);
        let Some((name, &id)) = frame.children.next() else {
            let Some(done) = stack.pop() else { break };
            let inode = tree.inode(done.inode);
            writing.metadata(&Place::Open(&done.descriptor), inode, &path)?;
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let inode = tree.inode(id);
        if inode.children().is_some() {
            let made = make_directory(&frame.descriptor, name, &mut raised);
            let descriptor = made.map_err(|error| failed("make", &path, error))?;
            stack.push(writing.frame(descriptor, id, path.len()));
        } else {
            writing.leaf(&frame.descriptor, name, id, inode, &path)?;
        }
    }
    Ok(writing.losses.into_vec())
}

/// Makes and opens a directory; at the limit of open files, with a higher one.
fn make_directory(parent: &OwnedFd, name: &[u8], raised: &mut Option<RaisedLimit>) -> Result<OwnedFd, Errno> {
    fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || fs::openat(parent, name, flags, Mode::empty());
    open().or_else(|error| {
        if error != Errno::MFILE || raised.is_some() {
            return Err(error);
        }
        *raised = Some(RaisedLimit::new());
        open()
    })
}

/// Where an inode's metadata are set.
enum Place<'a> {
    Open(&'a OwnedFd),
    Named(&'a OwnedFd, &'a [u8]),
}

impl<'t> Writing<'t> {
    fn frame(&self, descriptor: OwnedFd, inode: InodeId, length: usize) -> Frame<'t> {
        static NONE: crate::tree::Children = crate::tree::Children::new();
        let children = self.tree.inode(inode).children().unwrap_or(&NONE).iter();
        Frame { descriptor, inode, children, length }
    }

    /// Anything but a directory: made in the staging folder, given its metadata there, then moved, or linked when it
    /// has more names.
    fn leaf(&mut self, parent: &OwnedFd, name: &[u8], id: InodeId, inode: &Inode, path: &[u8]) -> Result<()> {
        let staging = &self.store.folder;
        let staged = match &inode.kind {
            InodeKind::File(content) => DirectoryStore::name(content),
            _ => format!("i{}", id.index()),
        };
        let staged = staged.as_bytes();
        if !self.staged[id.index()] {
            let made = match &inode.kind {
                InodeKind::File(_) | InodeKind::Directory(_) => Ok(()),
                InodeKind::Symlink(target) => fs::symlinkat(&**target, staging, staged),
                &InodeKind::CharDevice { major, minor } => {
                    node(staging, staged, FileType::CharacterDevice, major, minor)
                }
                &InodeKind::BlockDevice { major, minor } => node(staging, staged, FileType::BlockDevice, major, minor),
                InodeKind::Fifo => node(staging, staged, FileType::Fifo, 0, 0),
            };
            match made {
                Err(Errno::PERM) if !matches!(inode.kind, InodeKind::Fifo | InodeKind::Symlink(_)) => {
                    self.lose("device", path, "device nodes need root".to_owned());
                    return Ok(());
                }
                made => made.map_err(|error| failed("make", path, error))?,
            }
            if matches!(inode.kind, InodeKind::File(_)) {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(staging, staged, flags, Mode::empty());
                let file = file.map_err(|error| failed("open", path, error))?;
                self.metadata(&Place::Open(&file), inode, path)?;
            } else {
                self.metadata(&Place::Named(staging, staged), inode, path)?;
            }
        }
        if inode.nlink > 1 {
            self.staged[id.index()] = true;
            fs::linkat(staging, staged, parent, name, AtFlags::empty()).map_err(|error| failed("link", path, error))
        } else {
            fs::renameat(staging, staged, parent, name).map_err(|error| failed("place", path, error))
        }
    }

    fn lose(&mut self, kind: &'static str, path: &[u8], detail: String) {
        self.losses.add(kind, path, detail);
    }

    /// Owner first, for it clears setuid and capabilities; time last.
    fn metadata(&mut self, place: &Place<'_>, inode: &Inode, path: &[u8]) -> Result<()> {
        let Metadata { mode, uid, gid, mtime, xattrs } = &inode.metadata;
        // For chown the highest number means "leave it".
        let possible = *uid != u32::MAX && *gid != u32::MAX;
        if self.owners && possible {
            let (owner, group) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
            let changed = match place {
                Place::Open(descriptor) => fs::fchown(descriptor, owner, group),
                Place::Named(at, name) => fs::chownat(at, *name, owner, group, AtFlags::SYMLINK_NOFOLLOW),
            };
            match changed {
                Err(Errno::PERM | Errno::INVAL) => self.lose("owner", path, format!("{uid}:{gid}")),
                changed => changed.map_err(|error| failed("change the owner of", path, error))?,
            }
        } else if (*uid, *gid) != self.ours {
            self.lose("owner", path, format!("{uid}:{gid}"));
        }
        if let Some(xattrs) = xattrs {
            let through = match place {
                Place::Open(descriptor) => format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into_bytes(),
                Place::Named(at, name) => [format!("/proc/self/fd/{}/", at.as_raw_fd()).as_bytes(), name].concat(),
            };
            for (name, value) in xattrs.iter() {
                // A link in /proc leads to the open directory itself; a name in the staging folder is never followed.
                let set = match place {
                    Place::Open(_) => fs::setxattr(&*through, &**name, value, XattrFlags::empty()),
                    Place::Named(..) => fs::lsetxattr(&*through, &**name, value, XattrFlags::empty()),
                };
                if let Err(error) = set {
                    self.lose("xattr", path, format!("{}: {error}", name.escape_ascii()));
                }
            }
        }
        let changed = match place {
            Place::Open(descriptor) => fs::fchmod(descriptor, Mode::from_raw_mode((*mode).into())),
            // The mode of a symbolic link is nothing that a file system keeps.
            Place::Named(..) if matches!(inode.kind, InodeKind::Symlink(_)) => Ok(()),
            Place::Named(at, name) => change_mode(at, name, Mode::from_raw_mode((*mode).into())),
        };
        changed.map_err(|error| failed("change the mode of", path, error))?;
        let mtime = clamped(*mtime, self.clamp);
        let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        match place {
            Place::Open(descriptor) => fs::futimens(descriptor, &times),
            Place::Named(at, name) => fs::utimensat(at, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(|error| failed("set the time of", path, error))?;
        // Linux cuts what the file system has no room for without a word; all have room for these.
        if mtime.nanoseconds == 0 && (0..=i64::from(i32::MAX)).contains(&mtime.seconds) {
            return Ok(());
        }
        let seen = match place {
            Place::Open(descriptor) => fs::fstat(descriptor),
            Place::Named(at, name) => fs::statat(at, *name, AtFlags::SYMLINK_NOFOLLOW),
        };
        let seen = seen.map_err(|error| failed("read the time of", path, error))?;
        if (seen.st_mtime, seen.st_mtime_nsec as u64) != (mtime.seconds, mtime.nanoseconds.into()) {
            self.lose("mtime", path, "the file system has no such time".to_owned());
        }
        Ok(())
    }
}

/// Changes the mode of a device or pipe, never of what a link in its place leads to (`fchmodat` has no such flag).
fn change_mode(at: &OwnedFd, name: &[u8], mode: Mode) -> Result<(), Errno> {
    let node = fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode) {
        // There is no /proc here.
        Err(Errno::NOENT) => fs::chmodat(at, name, mode, AtFlags::empty()),
        changed => changed,
    }
}

fn node(at: &OwnedFd, name: &[u8], kind: FileType, major: u32, minor: u32) -> Result<(), Errno> {
    fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
}
