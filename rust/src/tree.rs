//! The merged tree: names and inodes, in memory alone.
//!
//! A path is resolved against the tree's own names and links, never against a disk. How layers are applied is
//! `merge`'s affair.

mod inode;
mod removed;
mod resolution;

pub use self::inode::{Children, Inode, InodeId, InodeKind};
pub use self::removed::Gone;
#[cfg(test)]
pub(crate) use self::resolution::STEPS;
pub use self::resolution::SYMLINKS_MAX;
pub(crate) use self::resolution::count_step;

use self::inode::{ROOT, implicit_directory};
use self::removed::Removed;
use self::resolution::{Found, Resolution};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::path::{check_name, check_target};

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
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    names: u64,
    /// How often a directory or a symbolic link lost a name: what no path went through cannot change where it leads.
    detours: u64,
    /// Names that are gone, where they are kept.
    removed: Option<Removed>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

impl Tree {
    /// An empty root, 0755, owner 0:0, time 0.
    pub fn new() -> Self {
        Tree { inodes: vec![implicit_directory()], names: 1, detours: 0, removed: None }
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

    /// An inode without a name yet.
    ///
    /// # Errors
    /// `entry_refused` for a symbolic link whose target is too long; `limit_exceeded` for too many inodes.
    pub(crate) fn add(&mut self, metadata: Metadata, kind: InodeKind) -> Result<InodeId> {
        if let InodeKind::Symlink(target) = &kind {
            check_target(target)?;
        }
        let Ok(index) = u32::try_from(self.inodes.len()) else {
            return Err(Error::new(Code::LimitExceeded, "more than 2^32 inodes"));
        };
        self.inodes.push(Inode { metadata, kind, nlink: 0 });
        Ok(InodeId(index))
    }

    /// Changes whenever a path to a directory may lead elsewhere than before.
    pub(crate) fn detours(&self) -> u64 {
        self.detours
    }

    /// Gives `inode` a name, taking it from whatever had it. Every name of the tree comes in here: whatever it was
    /// made of, it is one that a filesystem can have.
    ///
    /// # Errors
    /// `entry_refused` for what is no name, or is longer than 255 bytes.
    pub(crate) fn link(&mut self, directory: InodeId, name: &[u8], inode: InodeId) -> Result<()> {
        check_name(name)?;
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
            self.unlinked(directory, name.into(), displaced, true);
        }
        Ok(())
    }

    /// Takes a name away, with everything below it. Returns whether it was there.
    pub(crate) fn unlink(&mut self, directory: InodeId, name: &[u8]) -> bool {
        let InodeKind::Directory(children) = &mut self.inode_mut(directory).kind else {
            return false;
        };
        match children.remove_entry(name) {
            Some((name, inode)) => {
                self.unlinked(directory, name, inode, false);
                true
            }
            None => false,
        }
    }

    /// Takes all children of a directory away.
    pub(crate) fn clear(&mut self, directory: InodeId) {
        if let InodeKind::Directory(children) = &mut self.inode_mut(directory).kind {
            for (name, inode) in std::mem::take(children) {
                self.unlinked(directory, name, inode, false);
            }
        }
    }

    /// A name of `inode` is gone, `replaced` by another or not; iterative, for trees as deep as they like.
    fn unlinked(&mut self, directory: InodeId, name: Box<[u8]>, inode: InodeId, replaced: bool) {
        let mut gone = vec![(directory, name, inode)];
        while let Some((directory, name, id)) = gone.pop() {
            if let Some(removed) = &mut self.removed {
                removed.note(directory, name, id, replaced);
            }
            self.names -= 1;
            let inode = &mut self.inodes[id.index()];
            inode.nlink -= 1;
            match &mut inode.kind {
                InodeKind::Directory(children) => {
                    self.detours += 1;
                    gone.extend(std::mem::take(children).into_iter().map(|(name, child)| (id, name, child)));
                }
                InodeKind::Symlink(_) => self.detours += 1,
                _ => {}
            }
        }
    }

    /// Makes a directory of the tree its root, with all that is below it; every other name is gone.
    pub(crate) fn reroot(&mut self, directory: InodeId) {
        if directory == ROOT {
            return;
        }
        let inode = self.inode_mut(directory);
        let metadata = std::mem::take(&mut inode.metadata);
        let kind = std::mem::replace(&mut inode.kind, InodeKind::Directory(Children::new()));
        self.clear(ROOT);
        let root = self.inode_mut(ROOT);
        (root.metadata, root.kind) = (metadata, kind);
    }

    /// Follows a clean path from the root, links and all, and never leaves it: `..` of the root is the root. What is
    /// missing becomes a directory, 0755, owner 0:0, time 0, at most `depth` of them below each other.
    ///
    /// # Errors
    /// `entry_refused` when something on the way is no directory or goes round in links; `limit_exceeded` for `depth`.
    pub(crate) fn make_directories(&mut self, components: &[&[u8]], depth: usize) -> Result<Found> {
        let mut walk = Resolution::new(components);
        while let Some((name, last)) = walk.next(&self.inodes) {
            let (directory, length) = (walk.directory(), name.len());
            let child = match self.child(directory, name) {
                Some(child) => child,
                None if walk.depth() > depth => {
                    let message = format!("the path leads deeper than {depth} directories");
                    return Err(Error::new(Code::LimitExceeded, message));
                }
                None if self.inode(directory).children().is_some() => {
                    let name = name.to_vec();
                    let made = implicit_directory();
                    let id = self.add(made.metadata, made.kind)?;
                    self.link(directory, &name, id)?;
                    id
                }
                None => return Err(not_a_directory()),
            };
            if !walk.enter(self.inode(child), child, length, last, true)? {
                return Err(not_a_directory());
            }
        }
        Ok(walk.found())
    }

    /// Follows a clean path as `make_directories` does, in a tree that is only read; `None` when something is missing.
    /// `follow_last` says whether a link at the end is followed as well. The second value is the bytes of the link
    /// targets on the way, also to where nothing is.
    pub(crate) fn resolve(&self, components: &[&[u8]], follow_last: bool) -> Result<(Option<InodeId>, u64)> {
        let mut walk = Resolution::new(components);
        while let Some((name, last)) = walk.next(&self.inodes) {
            let entered = match self.child(walk.directory(), name) {
                Some(child) => walk.enter(self.inode(child), child, name.len(), last, follow_last)?,
                None => false,
            };
            if !entered {
                return Ok((None, walk.found().followed_bytes));
            }
        }
        let found = walk.found();
        Ok((Some(found.inode), found.followed_bytes))
    }

    /// The inode that `resolve` finds.
    pub(crate) fn find(&self, components: &[&[u8]], follow_last: bool) -> Result<Option<InodeId>> {
        self.resolve(components, follow_last).map(|(inode, _)| inode)
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

    /// The inode at a path of the user's, and the path that leads there without a link or `..` on the way. The last
    /// component's link is followed when `follow` says so.
    ///
    /// # Errors
    /// As [`Tree::lookup`].
    pub fn resolve_path(&self, path: &[u8], follow: bool) -> Result<(InodeId, Vec<u8>)> {
        let found = self.lookup(path, follow)?;
        let trimmed: &[u8] = if path.is_empty() { b"/" } else { path };
        let components = crate::path::clean(trimmed, &crate::limits::Limits::default())?;
        let mut walk = Resolution::new(&components);
        // The names of the directories from the root, which has none, to where the walk is.
        let mut names: Vec<&[u8]> = Vec::new();
        while let Some((name, last)) = walk.next(&self.inodes) {
            names.truncate(walk.depth() - 1);
            let Some(child) = self.child(walk.directory(), name) else { break };
            walk.enter(self.inode(child), child, name.len(), last, follow)?;
            names.truncate(walk.depth() - 1);
            if names.len() + 1 < walk.depth() {
                names.push(name);
            }
        }
        names.truncate(walk.depth() - 1);
        Ok((found, names.join(&b'/')))
    }

    /// From here on names that go are kept, each with the layer that was named last.
    pub(crate) fn keep_removed(&mut self, layer: u32) {
        self.removed.get_or_insert_default().enter(layer);
    }

    /// Hands on every regular file that was in the tree and is no more, once, by the last name that went. Nothing where
    /// names were not kept.
    pub fn each_gone(&self, take: impl FnMut(Gone)) {
        if let Some(removed) = &self.removed {
            removed.each_gone(&self.inodes, take);
        }
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
