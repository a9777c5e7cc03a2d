//! A tree as a directory of the file system.
//!
//! Contents are written to one file each while layers arrive, in a staging folder of ours; at the end every file gets
//! its metadata there and is moved to its name. Names are made through directory descriptors only, below an empty folder
//! that is ours too: no path of a layer reaches a system call, only single names of the finished tree. No name is
//! followed, even if somebody puts a link where a folder or a file of ours was.

mod failure;
mod metadata;
mod store;

use std::collections::btree_map;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use self::failure::{failed, unlinked};
use self::metadata::{Place, Setting};
pub use self::store::DirectoryStore;
use self::store::open_directory;
use super::refused::is_refusal;
use super::{Loss, Losses, refuse_unholdable};
use crate::error::Result;
use crate::open_files::RaisedLimit;
use crate::tree::{Inode, InodeId, InodeKind, Tree};

/// What a walk needs beside the tree.
struct Writing<'t> {
    tree: &'t Tree,
    store: &'t DirectoryStore,
    setting: Setting,
    /// Whether an inode with several names stands in the staging folder.
    staged: Vec<bool>,
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
/// `owners` asks for the image's owners, which takes root; without it all belongs to the caller. An owner that is not the
/// image's is a loss, and takes the set-id bits with it. With `record` files and directories have owner, mode and kind in
/// an attribute of their own as well, and may be read and written by their owner; a device that may not be made is an
/// empty file with such a record. Modes, times, extended attributes, devices and pipes that the
/// system refuses, or takes and does not keep, are losses too.
///
/// # Errors
/// `output_unsupported` for a link target over 4095 bytes; `io_error`, naming the entry, also where links are refused.
pub fn write_directory(
    tree: &Tree,
    store: &DirectoryStore,
    target: &Path,
    owners: bool,
    record: bool,
    clamp: Option<i64>,
) -> Result<Vec<Loss>> {
    refuse_unholdable(tree)?;
    let staged = vec![false; tree.inode_bound()];
    let setting = Setting { owners, record, clamp, losses: Losses::default() };
    let mut writing = Writing { tree, store, setting, staged };
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
            writing.setting.set(&Place::Open(&done.descriptor), inode, &path)?;
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
    Ok(writing.setting.losses.into_vec())
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

fn content_size(inode: &Inode) -> u64 {
    if let InodeKind::File(content) = &inode.kind { content.size } else { 0 }
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
            match (made, &inode.kind) {
                (Err(error), InodeKind::Symlink(_)) => return Err(unlinked("make", path, error)),
                (Err(error), kind) if is_refusal(error) => {
                    let (kind, what) = match kind {
                        InodeKind::Fifo => ("fifo", "named pipes may not be made here"),
                        _ if error == Errno::PERM => ("device", "device nodes need root"),
                        _ => ("device", "device nodes may not be made here"),
                    };
                    self.setting.losses.add(kind, path, what);
                    if !self.setting.record || kind == "fifo" {
                        return Ok(());
                    }
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = fs::openat(staging, staged, flags, Mode::RUSR | Mode::WUSR);
                    made.map_err(|error| failed("make", path, error))?;
                }
                (made, _) => made.map_err(|error| failed("make", path, error))?,
            }
            if matches!(inode.kind, InodeKind::File(_)) {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(staging, staged, flags, Mode::empty());
                let file = file.map_err(|error| failed("open", path, error))?;
                self.setting.set(&Place::Open(&file), inode, path)?;
                self.store.placed.fetch_add(content_size(inode), Ordering::Relaxed);
            } else {
                self.setting.set(&Place::Named(staging, staged), inode, path)?;
            }
        }
        if inode.nlink > 1 {
            self.staged[id.index()] = true;
            fs::linkat(staging, staged, parent, name, AtFlags::empty()).map_err(|error| unlinked("link", path, error))
        } else {
            fs::renameat(staging, staged, parent, name).map_err(|error| failed("place", path, error))
        }
    }
}

fn node(at: &OwnedFd, name: &[u8], kind: FileType, major: u32, minor: u32) -> Result<(), Errno> {
    fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
}
