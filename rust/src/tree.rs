//! The merged tree: names and inodes, in memory alone.
//!
//! A path is resolved against the tree's own names and links, never against a disk. How layers are applied is
//! `merge`'s affair.

use std::collections::BTreeMap;

use crate::contents::Content;
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};

/// Symbolic links followed for one path before it is taken for a loop (as Linux, path_resolution(7)).
pub const SYMLINKS_MAX: usize = 40;

/// Names an inode for the life of its tree; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(u32);

impl InodeId {
    /// A number from 0 (the root) on, without order or meaning beyond that.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Children of a directory by name, in the order of the names' bytes.
pub type Children = BTreeMap<Box<[u8]>, InodeId>;

/// What an inode is.
#[derive(Debug)]
pub enum InodeKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Children),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One file of any type, under one name or several.
#[derive(Debug)]
pub struct Inode {
    /// Mode, owner, time, attributes.
    pub metadata: Metadata,
    /// Type and what belongs to it.
    pub kind: InodeKind,
    /// Names that it has; 0 once the last was removed. A directory has one.
    pub nlink: u32,
}

impl Inode {
    /// The children, when it is a directory.
    pub fn children(&self) -> Option<&Children> {
        match &self.kind {
            InodeKind::Directory(children) => Some(children),
            _ => None,
        }
    }
}

/// One name of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Path without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// The inode that the name leads to.
    pub inode: InodeId,
    /// Whether it is the first name of the inode in this walk.
    pub first: bool,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    names: u64,
}

const ROOT: InodeId = InodeId(0);

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

fn implicit_directory() -> Inode {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    Inode { metadata, kind: InodeKind::Directory(Children::new()), nlink: 1 }
}

impl Tree {
    /// An empty root, 0755, owner 0:0, time 0.
    pub fn new() -> Self {
        Tree { inodes: vec![implicit_directory()], names: 1 }
    }

    /// The root directory.
    pub fn root(&self) -> InodeId {
        ROOT
    }

    /// The inode of an id of this tree.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Number of names, the root included.
    pub fn names(&self) -> u64 {
        self.names
    }

    /// One more than the highest index of an inode id, for tables by inode.
    pub fn inode_bound(&self) -> usize {
        self.inodes.len()
    }

    /// The child of a directory, without following anything.
    pub(crate) fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.inode(directory).children()?.get(name).copied()
    }

    pub(crate) fn add(&mut self, metadata: Metadata, kind: InodeKind) -> Result<InodeId> {
        let Ok(index) = u32::try_from(self.inodes.len()) else {
            return Err(Error::new(Code::LimitExceeded, "more than 2^32 inodes"));
        };
        self.inodes.push(Inode { metadata, kind, nlink: 0 });
        Ok(InodeId(index))
    }

    /// Gives `inode` a name, taking it from whatever had it.
    pub(crate) fn link(&mut self, directory: InodeId, name: &[u8], inode: InodeId) {
        self.inode_mut(inode).nlink += 1;
        self.names += 1;
        let InodeKind::Directory(children) = &mut self.inode_mut(directory).kind else {
            unreachable!("a name needs a directory");
        };
        let displaced = match children.get_mut(name) {
            Some(slot) => Some(std::mem::replace(slot, inode)),
            None => children.insert(name.into(), inode),
        };
        if let Some(displaced) = displaced {
            self.unlinked(displaced);
        }
    }

    /// Takes a name away, with everything below it. Returns whether it was there.
    pub(crate) fn unlink(&mut self, directory: InodeId, name: &[u8]) -> bool {
        let InodeKind::Directory(children) = &mut self.inode_mut(directory).kind else {
            return false;
        };
        match children.remove(name) {
            Some(inode) => {
                self.unlinked(inode);
                true
            }
            None => false,
        }
    }

    /// Takes all children of a directory away.
    pub(crate) fn clear(&mut self, directory: InodeId) {
        if let InodeKind::Directory(children) = &mut self.inode_mut(directory).kind {
            for inode in std::mem::take(children).into_values() {
                self.unlinked(inode);
            }
        }
    }

    /// A name of `inode` is gone; iterative, for trees as deep as they like.
    fn unlinked(&mut self, inode: InodeId) {
        let mut gone = vec![inode];
        while let Some(id) = gone.pop() {
            self.names -= 1;
            let inode = &mut self.inodes[id.index()];
            inode.nlink -= 1;
            if let InodeKind::Directory(children) = &mut inode.kind {
                gone.extend(std::mem::take(children).into_values());
            }
        }
    }

    /// Follows a clean path from the root, links and all, and never leaves it: `..` of the root is the root. What is
    /// missing becomes a directory, 0755, owner 0:0, time 0, at most `depth` of them below each other.
    pub(crate) fn make_directories(&mut self, components: &[&[u8]], depth: usize) -> Result<InodeId> {
        let mut walk = Resolution::new(components);
        while let Some((name, last)) = walk.next() {
            let directory = walk.directory();
            let child = match self.child(directory, &name) {
                Some(child) => child,
                None if walk.stack.len() > depth => {
                    let message = format!("the path leads deeper than {depth} directories");
                    return Err(Error::new(Code::LimitExceeded, message));
                }
                None if self.inode(directory).children().is_some() => {
                    let made = implicit_directory();
                    let id = self.add(made.metadata, made.kind)?;
                    self.link(directory, &name, id);
                    id
                }
                None => return Err(not_a_directory()),
            };
            if !walk.enter(self.inode(child), child, last, true)? {
                return Err(not_a_directory());
            }
        }
        Ok(walk.directory())
    }

    /// Follows a clean path as `make_directories` does, in a tree that is only read; `None` when something is missing.
    /// `follow_last` says whether a link at the end is followed as well.
    pub(crate) fn find(&self, components: &[&[u8]], follow_last: bool) -> Result<Option<InodeId>> {
        let mut walk = Resolution::new(components);
        while let Some((name, last)) = walk.next() {
            let Some(child) = self.child(walk.directory(), &name) else {
                return Ok(None);
            };
            if !walk.enter(self.inode(child), child, last, follow_last)? {
                return Ok(None);
            }
        }
        Ok(Some(walk.directory()))
    }

    /// The inode at a path of the user's (cleaned as an entry's path is); links are followed inside the root, a last
    /// one when `follow` says so.
    ///
    /// # Errors
    /// `path_not_found`; `entry_refused` for a path that leaves the root or goes round in links.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<InodeId> {
        let trimmed: &[u8] = if path.is_empty() { b"/" } else { path };
        let components = crate::path::clean(trimmed, &crate::limits::Limits::default())?;
        self.find(&components, follow)?.ok_or_else(|| {
            Error::new(
                Code::PathNotFound,
                format!("no such path in the image: /{}", components.join(&b'/').escape_ascii()),
            )
        })
    }

    /// All names, parents before children, siblings in the order of their bytes.
    pub fn walk(&self) -> Walk<'_> {
        self.walk_from(ROOT, Vec::new())
    }

    /// The names at and below `inode`, whose own path is `path`.
    pub fn walk_from(&self, inode: InodeId, path: Vec<u8>) -> Walk<'_> {
        Walk { tree: self, start: Some((inode, path)), stack: Vec::new(), path: Vec::new(), seen: Seen::default() }
    }
}

/// A path on its way through the tree.
struct Resolution {
    /// Directories from the root to where we are; the last may turn out to be something else at the path's end.
    stack: Vec<InodeId>,
    /// What is still to do, last component first.
    rest: Vec<Box<[u8]>>,
    followed: usize,
}

impl Resolution {
    fn new(components: &[&[u8]]) -> Self {
        let rest = components.iter().rev().map(|&name| name.into()).collect();
        Resolution { stack: vec![ROOT], rest, followed: 0 }
    }

    fn directory(&self) -> InodeId {
        self.stack.last().copied().unwrap_or(ROOT)
    }

    /// The next name to look up, and whether it is the path's last.
    fn next(&mut self) -> Option<(Box<[u8]>, bool)> {
        loop {
            let name = self.rest.pop()?;
            match &*name {
                b"" | b"." => {}
                b".." => {
                    if self.stack.len() > 1 {
                        self.stack.pop();
                    }
                }
                _ => return Some((name, self.rest.is_empty())),
            }
        }
    }

    /// Goes to a child, or to where it leads. Returns false when the path goes on behind something that is no
    /// directory, be it only by `..` or a slash.
    fn enter(&mut self, inode: &Inode, id: InodeId, last: bool, follow_last: bool) -> Result<bool> {
        match &inode.kind {
            InodeKind::Symlink(target) if !last || follow_last => {
                self.followed += 1;
                if self.followed > SYMLINKS_MAX {
                    return Err(Error::new(Code::EntryRefused, "the path goes through too many symbolic links"));
                }
                if target.first() == Some(&b'/') {
                    self.stack.truncate(1);
                }
                self.rest.extend(target.rsplit(|&byte| byte == b'/').map(Into::into));
            }
            _ => {
                self.stack.push(id);
                return Ok(self.rest.is_empty() || inode.children().is_some());
            }
        }
        Ok(true)
    }
}

fn not_a_directory() -> Error {
    Error::new(Code::EntryRefused, "a parent of the path is not a directory")
}

/// A set of inode ids, one bit each.
#[derive(Debug, Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Adds an id; whether it is new.
    fn insert(&mut self, id: InodeId) -> bool {
        let (word, bit) = (id.index() / 64, 1 << (id.index() % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

type Siblings<'t> = std::collections::btree_map::Iter<'t, Box<[u8]>, InodeId>;

/// See [`Tree::walk`].
pub struct Walk<'t> {
    tree: &'t Tree,
    start: Option<(InodeId, Vec<u8>)>,
    /// Directories being walked, with the length of their path.
    stack: Vec<(Siblings<'t>, usize)>,
    path: Vec<u8>,
    seen: Seen,
}

impl Walk<'_> {
    fn step(&mut self, inode: InodeId) -> Step {
        let node = self.tree.inode(inode);
        if let Some(children) = node.children() {
            self.stack.push((children.iter(), self.path.len()));
        }
        let first = node.nlink < 2 || self.seen.insert(inode);
        Step { path: self.path.clone(), inode, first }
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some((inode, path)) = self.start.take() {
            self.path = path;
            return Some(self.step(inode));
        }
        loop {
            let (children, length) = self.stack.last_mut()?;
            self.path.truncate(*length);
            if let Some((name, inode)) = children.next() {
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name);
                return Some(self.step(*inode));
            }
            self.stack.pop();
        }
    }
}
