//! One layer as overlayfs wants to see it: a tree of its own, with whiteouts as devices and opaque directories marked
//! (Linux, Documentation/filesystems/overlayfs.rst).
//!
//! Layers are changes, and overlayfs knows fewer of them than archives can say. Where its view of the layer would not
//! mean the same, the view is still a tree, but the layer cannot stand alone: the first such entry is the [`Reason`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::reader::Table;
use crate::batch::StoredEntry;
use crate::budget::Budget;
use crate::entry::{Entry, Kind, Metadata, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::merge::{Fate, LastParent, fate};
use crate::path::{self, Components};
use crate::tree::{InodeId, InodeKind, Tree};
use crate::whiteout::steers;

/// Why a layer means something else alone than in its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable name of the cause; see [`explain`].
    pub code: &'static str,
    /// Path of the first entry that is the cause, as it stands in the archive.
    pub path: Vec<u8>,
}

/// A directory that only paths name: its lower one, with its mode, or a link in its place, would be hidden.
const MADE_PARENT: &str = "made_parent";
/// A hard link whose target does not come before it in the layer.
const LOWER_LINK: &str = "lower_link";
/// A device that overlayfs takes for a whiteout.
const DEVICE_ZERO: &str = "device_zero";
/// Attributes that overlayfs reads.
const OVERLAY_ATTRIBUTE: &str = "overlay_attribute";
/// An opaque root: overlayfs merges roots always.
const OPAQUE_ROOT: &str = "opaque_root";
/// A whiteout in what is no directory of this layer.
const WHITEOUT_BEHIND: &str = "whiteout_behind";

/// An attribute that erofs cannot hold.
pub const ATTRIBUTE: &str = "attribute";

/// The causes, with what messages say of them.
pub const REASONS: [(&str, &str); 7] = [
    (MADE_PARENT, "its folder has no entry in the layer"),
    (LOWER_LINK, "it is a hard link to a file that does not stand before it in the layer"),
    (DEVICE_ZERO, "it is a device 0:0, which overlayfs takes for a whiteout"),
    (OVERLAY_ATTRIBUTE, "it has attributes that overlayfs reads"),
    (OPAQUE_ROOT, "it hides all of the lower layers' root"),
    (WHITEOUT_BEHIND, "it hides a name in what is no folder of the layer"),
    (ATTRIBUTE, "erofs cannot hold its attributes"),
];

/// What a message says of a cause; empty for one that is not known.
pub fn explain(code: &str) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == code).map_or("", |(_, text)| text)
}

/// One layer in overlay's form.
pub struct OverlayView {
    /// Its own names, its whiteouts as character devices 0:0.
    pub tree: Tree,
    /// Why it cannot stand alone, if it cannot.
    pub reason: Option<Reason>,
}

impl OverlayView {
    /// Makes the view of a layer.
    ///
    /// # Errors
    /// As [`Table::entries`]; `entry_refused`, `limit_exceeded` for what no image takes either.
    pub fn new(table: &Table, limits: &Limits) -> Result<Self> {
        let mut making = OverlayMaker {
            view: OverlayView { tree: Tree::new(), reason: None },
            limits,
            budget: Budget::new(limits.clone()),
            marks: Vec::new(),
            opaque: BTreeSet::new(),
            last: LastParent::default(),
        };
        for batch in table.entries(0, limits) {
            let mut batch = batch?;
            making.budget.take(&mut batch)?;
            for ingested in batch {
                making.entry(ingested)?;
            }
        }
        making.finish()
    }
}

/// A whiteout, or an opaque mark of its directory.
struct Mark {
    directory: Vec<Vec<u8>>,
    name: Option<Vec<u8>>,
    path: Vec<u8>,
}

struct OverlayMaker<'l> {
    view: OverlayView,
    limits: &'l Limits,
    budget: Budget,
    marks: Vec<Mark>,
    opaque: BTreeSet<InodeId>,
    last: LastParent,
}

impl OverlayMaker<'_> {
    fn because(&mut self, code: &'static str, path: &[u8]) {
        self.view.reason.get_or_insert_with(|| Reason { code, path: path.to_vec() });
    }

    fn entry(&mut self, ingested: StoredEntry) -> Result<()> {
        let StoredEntry { entry, content } = ingested;
        let Entry { path, kind, mut metadata, offset } = entry;
        if self.view.tree.inode_bound() as u64 > self.limits.entries {
            let message = format!("the layer has more than {} entries", self.limits.entries);
            return Err(Error::new(Code::LimitExceeded, message).at_entry(&path, offset));
        }
        let owned = |directory: Components<'_>| directory.iter().map(|name| name.to_vec()).collect();
        let components = match fate(&path, self.limits) {
            Ok(Fate::Kept(components)) => components,
            Ok(Fate::Bookkeeping) => return Ok(()),
            Ok(Fate::Whiteout { parent, name }) => {
                let (directory, name) = (owned(parent), Some(name.to_vec()));
                self.marks.push(Mark { directory, name, path });
                return Ok(());
            }
            Ok(Fate::Opaque { directory }) => {
                let directory = owned(directory);
                self.marks.push(Mark { directory, name: None, path });
                return Ok(());
            }
            Err(error) => return Err(error.at_entry(&path, offset)),
        };
        let Some((name, parent)) = components.split_last() else {
            if kind == Kind::Directory {
                metadata.xattrs = self.attributes(metadata.xattrs, &path);
                let root = self.view.tree.root();
                self.view.tree.inode_mut(root).metadata = metadata;
                return Ok(());
            }
            let refused = Error::new(Code::EntryRefused, "the image's root can only be a directory");
            return Err(refused.at_entry(&path, offset));
        };
        metadata.xattrs = self.attributes(metadata.xattrs, &path);
        let directory = self.directory(parent, &path).map_err(|error| error.at_entry(&path, offset))?;
        match InodeKind::of(kind, content) {
            Err(target) => self.link(directory, name, &target, &path),
            Ok(InodeKind::CharDevice { major: 0, minor: 0 }) => {
                self.because(DEVICE_ZERO, &path);
                Ok(())
            }
            Ok(new) => self.place(directory, name, metadata, new),
        }
    }

    /// An entry's attributes without those that steer overlayfs.
    fn attributes(&mut self, xattrs: Xattrs, path: &[u8]) -> Xattrs {
        let mut set = xattrs?;
        if set.keys().any(|name| steers(name)) {
            self.because(OVERLAY_ATTRIBUTE, path);
            Arc::make_mut(&mut set).retain(|name, _| !steers(name));
        }
        (!set.is_empty()).then_some(set)
    }

    /// The directory of an entry, made where it is missing.
    fn directory(&mut self, components: &[&[u8]], path: &[u8]) -> Result<InodeId> {
        if let Some((directory, excess)) = self.last.get(components, &self.view.tree) {
            self.budget.spend(excess)?;
            return Ok(directory);
        }
        let before = self.view.tree.inode_bound();
        let found = self.view.tree.make_directories(components, self.limits.depth)?;
        let directory = found.inode;
        if self.view.tree.inode_bound() > before {
            self.because(MADE_PARENT, path);
        }
        if self.view.tree.inode(directory).children().is_none() {
            return Err(Error::new(Code::EntryRefused, "a parent of the path is not a directory"));
        }
        let excess = found.excess(components);
        self.budget.spend(found.followed_bytes + excess)?;
        self.last.set(components, (directory, excess), &self.view.tree);
        Ok(directory)
    }

    fn place(&mut self, directory: InodeId, name: &[u8], metadata: Metadata, kind: InodeKind) -> Result<()> {
        let tree = &mut self.view.tree;
        let mut hides = false;
        if let (InodeKind::Directory(_), Some(there)) = (&kind, tree.child(directory, name)) {
            let inode = tree.inode_mut(there);
            if inode.children().is_some() {
                inode.metadata = metadata;
                return Ok(());
            }
            // What was in its place before had hidden the lower layers' directory for good.
            hides = true;
        }
        let inode = tree.add(metadata, kind)?;
        tree.link(directory, name, inode)?;
        if hides {
            self.opaque.insert(inode);
        }
        Ok(())
    }

    fn link(&mut self, directory: InodeId, name: &[u8], target: &[u8], path: &[u8]) -> Result<()> {
        let components = path::clean(target, self.limits)?;
        let tree = &mut self.view.tree;
        let (found, followed_bytes) = tree.resolve(&components, false).unwrap_or_default();
        self.budget.spend(followed_bytes)?;
        let found = found.filter(|&id| tree.inode(id).children().is_none());
        match found {
            Some(inode) if tree.child(directory, name) != Some(inode) => tree.link(directory, name, inode),
            Some(_) => Ok(()),
            None => {
                self.because(LOWER_LINK, path);
                Ok(())
            }
        }
    }

    /// The directory of a mark: no link is followed, for the lower layers' way would be another one.
    fn marked(&mut self, mark: &Mark) -> Result<Option<InodeId>> {
        let tree = &self.view.tree;
        let mut at = tree.root();
        for name in &mark.directory {
            match tree.child(at, name) {
                Some(child) if tree.inode(child).children().is_some() => at = child,
                Some(_) => {
                    self.because(WHITEOUT_BEHIND, &mark.path);
                    return Ok(None);
                }
                None => {
                    let way: Vec<&[u8]> = mark.directory.iter().map(Vec::as_slice).collect();
                    return self.directory(&way, &mark.path).map(Some);
                }
            }
        }
        Ok(Some(at))
    }

    fn finish(mut self) -> Result<OverlayView> {
        for mark in std::mem::take(&mut self.marks) {
            let Some(directory) = self.marked(&mark)? else { continue };
            let Some(name) = &mark.name else {
                if directory == self.view.tree.root() {
                    self.because(OPAQUE_ROOT, &mark.path);
                } else {
                    self.opaque.insert(directory);
                }
                continue;
            };
            match self.view.tree.child(directory, name) {
                Some(child) if self.view.tree.inode(child).children().is_some() => drop(self.opaque.insert(child)),
                // What the layer puts in its place hides it as well.
                Some(_) => {}
                None => {
                    let device = InodeKind::CharDevice { major: 0, minor: 0 };
                    let whiteout = self.view.tree.add(Metadata::default(), device)?;
                    self.view.tree.link(directory, name, whiteout)?;
                }
            }
        }
        for directory in std::mem::take(&mut self.opaque) {
            let metadata = &mut self.view.tree.inode_mut(directory).metadata;
            let mut set = metadata.xattrs.take().unwrap_or_default();
            Arc::make_mut(&mut set).insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
            metadata.xattrs = Some(set);
        }
        Ok(self.view)
    }
}
