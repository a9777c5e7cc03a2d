//! Layers applied to a tree, in order, as a pure function of their entries.
//!
//! Image-spec, layer.md, "Applying Changesets". The whiteouts of a layer are applied first, to what the lower layers made;
//! then its entries, in their order. So a whiteout never touches its own layer, whatever its position in the archive.

mod fate;
mod known;
#[cfg(test)]
mod tests;
mod whiteouts;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub use self::fate::stated;
pub(crate) use self::fate::{Fate, fate};
pub use self::known::{Known, Question};
use crate::batch::{Batch, StoredEntry};
use crate::budget::Budget;
use crate::entry::{Entry, Kind, Metadata, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::path;
use crate::tree::{InodeId, InodeKind, SYMLINKS_MAX, Tree};
use crate::whiteout::steers;

/// Counts the changes of what the merge makes of the same entries: part of the key of every output that is cached.
pub const VERSION: u32 = 1;

/// What was dropped on the way in, by stable name, with how often.
pub type Notices = BTreeMap<&'static str, u64>;

/// The directory that the last entry went to: the next one mostly goes there too, and its path may lead through links
/// far longer than the entry.
#[derive(Debug, Default)]
pub(crate) struct LastParent {
    /// Every component with a slash behind it.
    path: Vec<u8>,
    /// The directory, and how many bytes its path is longer than this one.
    directory: Option<(InodeId, u64)>,
    /// What `Tree::detours` said.
    detours: u64,
}

impl LastParent {
    pub(crate) fn get(&self, parent: &[&[u8]], tree: &Tree) -> Option<(InodeId, u64)> {
        let directory = self.directory.filter(|_| self.detours == tree.detours())?;
        let mut rest = &self.path[..];
        for name in parent {
            rest = rest.strip_prefix(*name)?.strip_prefix(b"/")?;
        }
        rest.is_empty().then_some(directory)
    }

    pub(crate) fn set(&mut self, parent: &[&[u8]], directory: (InodeId, u64), tree: &Tree) {
        self.path.clear();
        for name in parent {
            self.path.extend_from_slice(name);
            self.path.push(b'/');
        }
        (self.directory, self.detours) = (Some(directory), tree.detours());
    }
}

/// A tree on its way.
#[derive(Debug, Default)]
pub struct Merge {
    tree: Tree,
    budget: Arc<Budget>,
    notices: Notices,
    entries: u64,
    links: Vec<LateLink>,
    /// The placeholders of `links`.
    held: HashSet<InodeId>,
    last: LastParent,
    /// Whether the layer is what a user adds: see [`Merge::additions`].
    adding: bool,
    /// Whether there are layers below the lowest one: see [`Merge::above_others`].
    above: bool,
}

/// A hard link whose target has not come yet.
#[derive(Debug)]
struct LateLink {
    /// Holds the link's place: a later entry of the same path displaces it.
    placeholder: InodeId,
    directory: InodeId,
    name: Vec<u8>,
    target: Vec<u8>,
    /// What had the target's name in the lower layers; it counts only if nothing takes that name.
    hidden: Option<InodeId>,
    /// The entry's path and offset, for messages.
    path: Vec<u8>,
    offset: u64,
}

impl Merge {
    /// An empty tree and the bounds that its paths and entries are held to.
    pub fn new(limits: Limits) -> Self {
        Merge::within(Arc::new(Budget::new(limits)))
    }

    /// The same, with the budget that those who read the layers count in as well.
    pub fn within(budget: Arc<Budget>) -> Self {
        Merge { budget, ..Merge::default() }
    }

    fn limits(&self) -> &Limits {
        self.budget.limits()
    }

    /// Whether the layers that follow are files that a user adds. Unlike an image's own, their directories leave existing
    /// ones as they are, also behind a link, and no file of theirs replaces a directory: a folder that is added to
    /// `/lib` goes where `/lib` leads, for example to `usr/lib`.
    pub fn additions(&mut self, adding: bool) {
        self.adding = adding;
    }

    /// Says that the layers are the upper ones of an image: a hard link whose file is in a lower one is left out.
    pub fn above_others(&mut self, above: bool) {
        self.above = above;
    }

    /// Keeps, from here on, the names that go, for [`crate::tree::Tree::each_gone`]; `layer` is the one that comes next.
    pub fn keep_removed(&mut self, layer: u32) {
        self.tree.keep_removed(layer);
    }

    /// The same as it is between two layers, to go another way from here. Both count in one budget.
    pub(crate) fn branch(&self) -> Self {
        let (tree, notices) = (self.tree.clone(), self.notices.clone());
        Merge { tree, notices, entries: self.entries, ..Merge::within(Arc::clone(&self.budget)) }
    }

    /// The finished tree, and what was dropped.
    pub fn finish(self) -> (Tree, Notices) {
        (self.tree, self.notices)
    }

    /// Applies the lowest layer while it arrives. There is nothing below that a whiteout could hide.
    ///
    /// # Errors
    /// The first of `batches`; `entry_refused` or `limit_exceeded` for an entry that cannot be applied, which is named.
    pub fn lowest_layer<B>(&mut self, batches: impl IntoIterator<Item = Result<B>>) -> Result<()>
    where
        B: IntoIterator<Item = StoredEntry>,
    {
        for batch in batches {
            for ingested in batch? {
                self.apply(ingested, None)?;
            }
        }
        self.late_links()
    }

    /// Applies the next layer, which must be complete: its last entry may be a whiteout.
    ///
    /// # Errors
    /// As [`Merge::lowest_layer`].
    pub fn upper_layer(&mut self, batches: Vec<Batch>) -> Result<()> {
        // The file that a link names may lose that very name to a whiteout of the same layer (`ln t h; rm t`).
        let mut targets = Vec::new();
        let mut index = 0;
        for batch in &batches {
            let mut entries = batch.views();
            while let Some(entry) = entries.next_view() {
                if let Some(target) = entry.hard_link()
                    && let Ok(target) = path::clean(target, self.limits())
                    && let Ok((found, followed_bytes)) = self.tree.resolve(&target, false)
                {
                    self.budget.spend(followed_bytes).map_err(|error| error.at_entry(entry.path, entry.offset))?;
                    targets.extend(found.map(|inode| (index, inode)));
                }
                index += 1;
            }
        }
        for (directory, name) in whiteouts::hidden(&self.tree, &batches, &self.budget)? {
            match name {
                Some(name) => drop(self.tree.unlink(directory, &name)),
                None => self.tree.clear(directory),
            }
        }
        let mut targets = targets.into_iter().peekable();
        for (index, ingested) in batches.into_iter().flatten().enumerate() {
            let hidden = targets.next_if(|(link, _)| *link == index).map(|(_, inode)| inode);
            self.apply(ingested, hidden)?;
        }
        self.late_links()
    }

    fn notice(&mut self, what: &'static str) {
        *self.notices.entry(what).or_default() += 1;
    }

    fn apply(&mut self, ingested: StoredEntry, hidden: Option<InodeId>) -> Result<()> {
        let StoredEntry { entry, content } = ingested;
        let Entry { path, kind, metadata, offset } = entry;
        self.entries += 1;
        // Directories that only paths name count as well: one path may name thousands.
        if self.entries.max(self.tree.inode_bound() as u64) > self.limits().entries {
            let message = format!("the image has more than {} entries", self.limits().entries);
            return Err(Error::new(Code::LimitExceeded, message).at_entry(&path, offset));
        }
        let mut metadata = metadata;
        let xattrs = metadata.xattrs.take();
        metadata.xattrs = self.keep_xattrs(xattrs).map_err(|error| error.at_entry(&path, offset))?;
        let applied = match fate(&path, self.limits()) {
            Ok(Fate::Kept(components)) => match components.split_last() {
                None => self.root(&kind, metadata),
                Some((name, parent)) => {
                    let new = match InodeKind::of(kind, content) {
                        Ok(new) => new,
                        Err(target) => {
                            return self
                                .hard_link(parent, name, target, hidden, (&path, offset))
                                .map_err(|error| error.at_entry(&path, offset));
                        }
                    };
                    self.place(parent, name, metadata, new)
                }
            },
            Ok(Fate::Bookkeeping) => {
                self.notice("bookkeeping_dropped");
                Ok(())
            }
            Ok(Fate::Whiteout { .. } | Fate::Opaque { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        applied.map_err(|error| error.at_entry(&path, offset))
    }

    /// Attributes of overlayfs would steer an overlay mount of the result; all others are kept, equal sets once.
    fn keep_xattrs(&mut self, xattrs: Xattrs) -> Result<Xattrs> {
        let Some(mut set) = xattrs else { return Ok(None) };
        if set.keys().any(|name| steers(name)) {
            Arc::make_mut(&mut set).retain(|name, _| !steers(name));
            self.notice("overlay_xattrs_dropped");
        }
        if set.is_empty() { Ok(None) } else { self.budget.attributes(Some(set)) }
    }

    fn root(&mut self, kind: &Kind, metadata: Metadata) -> Result<()> {
        if *kind != Kind::Directory {
            return Err(Error::new(Code::EntryRefused, "the image's root can only be a directory"));
        }
        let root = self.tree.root();
        self.tree.inode_mut(root).metadata = metadata;
        Ok(())
    }

    fn parent(&mut self, parent: &[&[u8]]) -> Result<InodeId> {
        if let Some((directory, excess)) = self.last.get(parent, &self.tree) {
            self.budget.spend(excess)?;
            return Ok(directory);
        }
        let found = self.tree.make_directories(parent, self.limits().depth)?;
        if self.tree.inode(found.inode).children().is_none() {
            return Err(Error::new(Code::EntryRefused, "a parent of the path is not a directory"));
        }
        let excess = found.excess(parent);
        self.budget.spend(found.followed_bytes + excess)?;
        self.last.set(parent, (found.inode, excess), &self.tree);
        Ok(found.inode)
    }

    /// Puts a new inode at a name. A directory over a directory keeps the children that are there.
    fn place(&mut self, parent: &[&[u8]], name: &[u8], metadata: Metadata, kind: InodeKind) -> Result<()> {
        let directory = self.parent(parent)?;
        if self.adding && self.tree.child(directory, name).is_some() && self.meets(parent, name, &kind)? {
            return Ok(());
        }
        if let (InodeKind::Directory(_), Some(there)) = (&kind, self.tree.child(directory, name)) {
            let inode = self.tree.inode_mut(there);
            if inode.children().is_some() {
                inode.metadata = metadata;
                return Ok(());
            }
        }
        let inode = self.tree.add(metadata, kind)?;
        self.tree.link(directory, name, inode)
    }

    /// What a clean path names; the links on the way count.
    fn find(&self, path: &[&[u8]], follow_last: bool) -> Result<Option<InodeId>> {
        let (found, followed_bytes) = self.tree.resolve(path, follow_last)?;
        self.budget.spend(followed_bytes)?;
        Ok(found)
    }

    /// What an added entry does at a name that is taken: returns whether a directory is there that serves.
    fn meets(&mut self, parent: &[&[u8]], name: &[u8], kind: &InodeKind) -> Result<bool> {
        let path: Vec<&[u8]> = parent.iter().copied().chain([name]).collect();
        let there = self.find(&path, true)?;
        let is_directory = there.is_some_and(|id| self.tree.inode(id).children().is_some());
        match (kind, there) {
            (InodeKind::Directory(_), Some(_)) if is_directory => Ok(true),
            (InodeKind::Directory(_), None) => self.parent(&path).map(|_| true),
            (InodeKind::Directory(_), Some(_)) => {
                Err(Error::new(Code::Usage, "a folder cannot be added where the image has a file"))
            }
            _ if is_directory => {
                let message =
                    "the image has a directory there; end the destination with a slash to add the file inside";
                Err(Error::new(Code::Usage, message))
            }
            _ => Ok(false),
        }
    }

    fn hard_link(
        &mut self,
        parent: &[&[u8]],
        name: &[u8],
        target: Vec<u8>,
        hidden: Option<InodeId>,
        (path, offset): (&[u8], u64),
    ) -> Result<()> {
        let directory = self.parent(parent)?;
        let components = path::clean(&target, self.limits())?;
        let found = self.find(&components, false)?;
        // A place held for a late link is no file yet: this link waits with it.
        if let Some(inode) = found.filter(|id| !self.held.contains(id)) {
            return self.link_to(directory, name, inode, &target);
        }
        // Held until the layer is complete.
        self.budget.spend((path.len() + target.len()) as u64)?;
        let placeholder = self.tree.add(Metadata::default(), InodeKind::Fifo)?;
        self.tree.link(directory, name, placeholder)?;
        self.held.insert(placeholder);
        let (name, path) = (name.to_vec(), path.to_vec());
        self.links.push(LateLink { placeholder, directory, name, target, hidden, path, offset });
        Ok(())
    }

    fn link_to(&mut self, directory: InodeId, name: &[u8], inode: InodeId, target: &[u8]) -> Result<()> {
        if self.tree.inode(inode).children().is_some() {
            let message = format!("a hard link to the directory \"{}\"", target.escape_ascii());
            return Err(Error::new(Code::EntryRefused, message));
        }
        if self.tree.child(directory, name) != Some(inode) {
            self.tree.link(directory, name, inode)?;
        }
        Ok(())
    }

    /// Settles the links whose target came after them.
    fn late_links(&mut self) -> Result<()> {
        let mut missing = std::mem::take(&mut self.links);
        // Where a later entry took a link's place, or a directory above it went away, there is nothing to settle.
        missing.retain(|late| self.tree.inode(late.placeholder).nlink > 0);
        // A link to a link may turn a missing path into one that is there; as often as links may follow each other.
        for _ in 0..SYMLINKS_MAX {
            let before = missing.len();
            missing = self.settle(missing, false)?;
            if missing.len() == before {
                missing = self.settle(missing, true)?;
            }
            if missing.is_empty() || missing.len() == before {
                break;
            }
        }
        self.held.clear();
        if self.above {
            for late in std::mem::take(&mut missing) {
                if self.tree.child(late.directory, &late.name) == Some(late.placeholder) {
                    self.tree.unlink(late.directory, &late.name);
                }
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(late) => {
                let message = format!("a hard link to \"{}\", which is not in the image", late.target.escape_ascii());
                Err(Error::new(Code::EntryRefused, message).at_entry(&late.path, late.offset))
            }
        }
    }

    /// Tries each link, and again those that waited for it. Returns those whose target is missing, or waits for one
    /// that is. `lower` takes for a missing target what a whiteout of this layer has hidden.
    fn settle(&mut self, links: Vec<LateLink>, lower: bool) -> Result<Vec<LateLink>> {
        let mut missing = Vec::new();
        let mut behind: HashMap<InodeId, Vec<LateLink>> = HashMap::default();
        let mut ready = VecDeque::from(links);
        while let Some(late) = ready.pop_front() {
            let named = |error: Error| error.at_entry(&late.path, late.offset);
            // It may be looked for many times.
            self.budget.spend(late.target.len() as u64).map_err(named)?;
            let target = path::clean(&late.target, self.limits()).map_err(named)?;
            let found = self.find(&target, false).map_err(named)?;
            match found.or(late.hidden.filter(|_| lower)) {
                Some(inode) if self.held.contains(&inode) => behind.entry(inode).or_default().push(late),
                Some(inode) => {
                    self.link_to(late.directory, &late.name, inode, &late.target).map_err(named)?;
                    self.held.remove(&late.placeholder);
                    ready.extend(behind.remove(&late.placeholder).unwrap_or_default());
                }
                None => missing.push(late),
            }
        }
        let mut waiting: Vec<LateLink> = behind.into_values().flatten().collect();
        // In the order of the archive, so that the one that is named is always the same.
        waiting.append(&mut missing);
        waiting.sort_by_key(|late| late.placeholder);
        Ok(waiting)
    }
}
