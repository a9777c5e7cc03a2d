//! A tree as a directory of the file system.
//!
//! Contents are written to one file each while layers arrive, in a staging folder, where the files of one folder of a
//! layer lie together. At the end a staged folder becomes the tree's own, if all of its files are there; other files are
//! moved one by one. Names are made through file descriptors of directories only, below an empty folder made for this:
//! no path of a layer reaches a system call, only single names. No name is followed, even if another process puts a link
//! in the place of a folder or a file.

mod failure;
mod making;
mod metadata;
mod staged;
mod store;

use std::collections::{BTreeMap, btree_map};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(target_os = "linux")]
use rustix::fs::makedev;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use self::failure::{failed, unlinked};
use self::metadata::{InodePlace, Setting};
use self::staged::{StagedFiles, folder_name, open_folder};
pub use self::store::DirectoryStore;
use self::store::open_directory;
use super::refused::is_refusal;
use super::request::{WriteRequest, Written, for_copies};
use super::{Loss, Losses, move_contents, refuse_unholdable};
use crate::contents::Content;
use crate::error::Result;
use crate::open_files::RaisedLimit;
use crate::tree::{Inode, InodeId, InodeKind, Tree};

/// What a walk needs beside the tree.
struct Writing<'t> {
    tree: &'t Tree,
    store: &'t DirectoryStore,
    setting: Setting,
    /// Staged files by layer, as far as they were asked for.
    files: BTreeMap<u32, Arc<StagedFiles>>,
    /// The folder of the staging folder that was opened last: layer, number.
    opened: Option<((u32, u32), Option<OwnedFd>)>,
    /// Whether an inode with several names stands in the staging folder.
    staged: Vec<bool>,
}

/// A directory whose children are being made.
struct Frame<'t> {
    folder: OwnedFd,
    inode: InodeId,
    children: btree_map::Iter<'t, Box<[u8]>, InodeId>,
    /// The staged folder that it was: layer, number.
    was: Option<(u32, u32)>,
    /// Length of its path in the path of the walk.
    length: usize,
}

/// What is chosen about a directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Asks for the image's owners, which takes root; without it all belongs to the caller. An owner that is not the
    /// image's is a loss, and takes the set-id bits with it.
    pub owners: bool,
    /// Gives files and directories their owner, mode and kind in an attribute of their own as well; they may be read and
    /// written by their owner then. A device that may not be made is an empty file with such a record.
    pub record: bool,
}

/// Makes the tree in an empty folder. A [`DirectoryStore`] of its contents, on the same file system, is used up; contents
/// that wait in another store are copied to one in the request's folder.
///
/// Modes, times, extended attributes, devices and pipes that the system refuses, or takes and does not keep, are losses.
///
/// # Errors
/// `output_unsupported` for a link target over 4095 bytes; `io_error`, naming the entry, also where links are refused.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let WriteRequest { source, target, options, clamp_mtime, threads, folder, .. } = request;
    let target = target.path()?;
    let losses = match source.store::<DirectoryStore>() {
        Some(store) => make(source.tree, store, target, options, clamp_mtime)?,
        None => {
            let store = Arc::new(DirectoryStore::new(for_copies(folder)?, threads)?);
            let tree = move_contents(source.tree, &source.metered(), &store, &mut |_| Ok(()))?;
            make(&tree, &store, target, options, clamp_mtime)?
        }
    };
    Ok(Written { losses, ..Written::default() })
}

/// Makes what is in the folder.
fn make(
    tree: &Tree,
    store: &DirectoryStore,
    target: &Path,
    Options { owners, record }: Options,
    clamp: Option<i64>,
) -> Result<Vec<Loss>> {
    refuse_unholdable(tree)?;
    let staged = vec![false; tree.inode_bound()];
    let own = (geteuid().as_raw(), getegid().as_raw());
    let setting = Setting { owners, own, record, clamp, losses: Losses::default() };
    let mut writing = Writing { tree, store, setting, files: BTreeMap::new(), opened: None, staged };
    let mut path = Vec::new();
    // A deep tree holds one file descriptor for each level.
    let mut raised = None;
    let root = tree.root();
    let mut stack = vec![writing.frame(open_directory(target)?, root, None, 0)];
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.length);
        let Some((name, &id)) = frame.children.next() else {
            let Some(done) = stack.pop() else { break };
            let inode = tree.inode(done.inode);
            writing.setting.set(&InodePlace::Open(&done.folder), inode, &path)?;
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let inode = tree.inode(id);
        if inode.children().is_some() {
            let was = writing.whole_folder(inode);
            let made = match was {
                Some((layer, folder)) => {
                    fs::renameat(&store.staging.folder, folder_name(layer, folder), &frame.folder, &**name)
                }
                None => fs::mkdirat(&frame.folder, &**name, Mode::RWXU),
            };
            let opened = made.and_then(|()| open_made(&frame.folder, name, &mut raised));
            let folder = opened.map_err(|error| failed("make", &path, error))?;
            stack.push(writing.frame(folder, id, was, path.len()));
        } else {
            let place = NewName { parent: &frame.folder, was: frame.was, name, path: &path };
            match &inode.kind {
                InodeKind::File(content) => writing.file(&place, id, inode, content)?,
                _ => writing.leaf(&place, id, inode)?,
            }
        }
    }
    Ok(writing.setting.losses.into_vec())
}

/// Opens a directory that was just made; at the limit of open files, with a higher one.
fn open_made(parent: &OwnedFd, name: &[u8], raised: &mut Option<RaisedLimit>) -> Result<OwnedFd, Errno> {
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

/// A name of the tree that is to be made.
struct NewName<'a> {
    parent: &'a OwnedFd,
    /// The staged folder that its parent was.
    was: Option<(u32, u32)>,
    name: &'a [u8],
    /// For messages.
    path: &'a [u8],
}

impl<'t> Writing<'t> {
    fn frame(&self, folder: OwnedFd, inode: InodeId, was: Option<(u32, u32)>, length: usize) -> Frame<'t> {
        static NONE: crate::tree::Children = crate::tree::Children::new();
        let children = self.tree.inode(inode).children().unwrap_or(&NONE).iter();
        Frame { folder, inode, children, was, length }
    }

    fn files(&mut self, layer: u32) -> &StagedFiles {
        self.files.entry(layer).or_insert_with(|| self.store.files(layer))
    }

    /// The staged folder whose files are all in this directory, under their own names and no others: the one with most.
    fn whole_folder(&mut self, directory: &Inode) -> Option<(u32, u32)> {
        let mut found: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for (name, &id) in directory.children()? {
            let inode = self.tree.inode(id);
            if let (InodeKind::File(content), 1) = (&inode.kind, inode.nlink) {
                let folder = self.files(content.layer).lock().folder_with(content.position, name);
                if let Some(folder) = folder {
                    *found.entry((content.layer, folder)).or_default() += 1;
                }
            }
        }
        found.retain(|&(layer, folder), count| self.files(layer).lock().count(folder) == *count);
        found.into_iter().max_by_key(|&(_, count)| count).map(|(folder, _)| folder)
    }

    /// A regular file: moved to its name, or linked when it has more, unless it came with its folder.
    fn file(&mut self, target: &NewName<'_>, id: InodeId, inode: &Inode, content: &Content) -> Result<()> {
        let &NewName { parent, was, name, path } = target;
        let (folder, staged, state) = self.files(content.layer).lock().find(content.position);
        let at = (content.layer, folder);
        let came = was == Some(at) && inode.nlink == 1 && staged == name;
        if !came && self.opened.as_ref().is_none_or(|(opened, _)| *opened != at) {
            let open = open_folder(&self.store.staging.folder, content.layer, folder);
            self.opened = Some((at, open.map_err(|error| failed("open the staging folder of", path, error))?));
        }
        let folder = match &self.opened {
            _ if came => parent,
            Some((_, Some(folder))) => folder,
            _ => &self.store.staging.folder,
        };
        if !self.staged[id.index()] {
            if !state.is_some_and(|state| self.setting.has_all(&self.store.staging.states, state, inode, path)) {
                let attributes = self.setting.record || inode.metadata.xattrs.is_some();
                let file = open_staged(folder, &staged, attributes, inode.metadata.mode)
                    .map_err(|error| failed("open", path, error))?;
                self.setting.set(&InodePlace::Open(&file), inode, path)?;
            }
            self.store.placed.fetch_add(content.size, Ordering::Relaxed);
        }
        if came {
            return Ok(());
        }
        if inode.nlink == 1 {
            return fs::renameat(folder, &*staged, parent, name).map_err(|error| failed("place", path, error));
        }
        self.staged[id.index()] = true;
        fs::linkat(folder, &*staged, parent, name, AtFlags::empty()).map_err(|error| unlinked("link", path, error))
    }

    /// Neither a file nor a directory: made at its name, or, when it has more, in the staging folder and linked.
    fn leaf(&mut self, target: &NewName<'_>, id: InodeId, inode: &Inode) -> Result<()> {
        let &NewName { parent, name, path, .. } = target;
        let own = format!("i{}", id.index());
        let linked = inode.nlink > 1;
        let (at, made) = if linked { (&self.store.staging.folder, own.as_bytes()) } else { (parent, name) };
        if !self.staged[id.index()] {
            if !self.make(at, made, inode, path)? {
                return Ok(());
            }
            self.setting.set(&InodePlace::Named(at, made), inode, path)?;
        }
        if linked {
            self.staged[id.index()] = true;
            fs::linkat(at, made, parent, name, AtFlags::empty()).map_err(|error| unlinked("link", path, error))?;
        }
        Ok(())
    }

    /// Makes a link, device or pipe; false for one that may not be, which is a loss.
    fn make(&mut self, at: &OwnedFd, name: &[u8], inode: &Inode, path: &[u8]) -> Result<bool> {
        let made = match &inode.kind {
            InodeKind::File(_) | InodeKind::Directory(_) => Ok(()),
            InodeKind::Symlink(target) => fs::symlinkat(&**target, at, name),
            &InodeKind::CharDevice { major, minor } => node(at, name, FileType::CharacterDevice, major, minor),
            &InodeKind::BlockDevice { major, minor } => node(at, name, FileType::BlockDevice, major, minor),
            InodeKind::Fifo => node(at, name, FileType::Fifo, 0, 0),
        };
        let error = match (made, &inode.kind) {
            (Ok(()), _) => return Ok(true),
            (Err(error), InodeKind::Symlink(_)) => return Err(unlinked("make", path, error)),
            (Err(error), _) if !is_refusal(error) => return Err(failed("make", path, error)),
            (Err(error), _) => error,
        };
        let (kind, what) = match &inode.kind {
            InodeKind::Fifo => ("fifo", "named pipes may not be made here"),
            _ if error == Errno::PERM => ("device", "device nodes need root"),
            _ => ("device", "device nodes may not be made here"),
        };
        self.setting.losses.add(kind, path, what);
        if !self.setting.record || kind == "fifo" {
            return Ok(false);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let empty = fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR);
        empty.map_err(|error| failed("make", path, error))?;
        Ok(true)
    }
}

/// Opens a staged file. Setting attributes needs write permission, so that a mode without it is changed first.
fn open_staged(folder: &OwnedFd, name: &[u8], attributes: bool, mode: u16) -> Result<OwnedFd, Errno> {
    if attributes && mode & 0o200 == 0 {
        InodePlace::Named(folder, name).change_mode(0o600)?;
    }
    fs::openat(folder, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(target_os = "linux")]
fn node(at: &OwnedFd, name: &[u8], kind: FileType, major: u32, minor: u32) -> Result<(), Errno> {
    fs::mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
}

/// Other systems have no such call, or devices of other numbers.
#[cfg(not(target_os = "linux"))]
fn node(_at: &OwnedFd, _name: &[u8], _kind: FileType, _major: u32, _minor: u32) -> Result<(), Errno> {
    Err(Errno::PERM)
}
