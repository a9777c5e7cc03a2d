//! What the whiteouts of a layer take away: looked up in the lower layers' tree as it was, before anything is done.

use std::collections::HashSet;

use super::fate::{Fate, fate};
use crate::batch::{Batch, EntryView};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tree::{InodeId, InodeKind, Tree, count_step};

/// What a whiteout hides: all children of a directory, or the one of a name.
pub(super) type Hidden = (InodeId, Option<Box<[u8]>>);

/// Looks at all whiteouts of a layer. The work is that of walking their paths, and those of the layer's directories, a
/// few times.
///
/// # Errors
/// `entry_refused`, `limit_exceeded`, naming the entry.
pub(super) fn hidden(tree: &Tree, batches: &[Batch], budget: &Budget) -> Result<Vec<Hidden>> {
    let limits = budget.limits();
    let mut scope = WhiteoutScope::default();
    let mut any = false;
    each(batches, limits, |_, fate| {
        any |= scope.whiteout(tree, &fate);
        Ok(())
    })?;
    if !any {
        return Ok(Vec::new());
    }
    each(batches, limits, |entry, fate| {
        if entry.is_directory() {
            scope.directory(tree, &fate);
        }
        Ok(())
    })?;
    let mut hidden = Vec::new();
    // Whiteouts of one directory mostly stand together; its path may lead through links as long as all others.
    let (mut last, mut directory): (Vec<Box<[u8]>>, _) = (Vec::new(), Some(tree.root()));
    each(batches, limits, |_, fate| {
        let (parent, name) = match &fate {
            Fate::Whiteout { parent, name } => (parent, Some((*name).into())),
            Fate::Opaque { directory } => (directory, None),
            Fate::Kept(_) | Fate::Bookkeeping => return Ok(()),
        };
        if !last.iter().map(|name| &**name).eq(parent.iter().copied()) {
            directory = None;
            if scope.still_applies(tree, parent) {
                let (found, followed_bytes) = tree.resolve(parent, true)?;
                budget.spend(followed_bytes)?;
                directory = found;
            }
            last = parent.iter().map(|&name| name.into()).collect();
        }
        hidden.extend(directory.map(|directory| (directory, name)));
        Ok(())
    })?;
    Ok(hidden)
}

/// Hands on every entry and what its path makes of it; names the entry in an error.
fn each(
    batches: &[Batch],
    limits: &Limits,
    mut take: impl FnMut(&EntryView<'_>, Fate<'_>) -> Result<()>,
) -> Result<()> {
    for batch in batches {
        let mut entries = batch.views();
        while let Some(entry) = entries.next_view() {
            let named = |error: Error| error.at_entry(entry.path, entry.offset);
            fate(entry.path, limits).and_then(|fate| take(&entry, fate)).map_err(named)?;
        }
    }
    Ok(())
}

/// What a layer says of what lower layers have.
#[derive(Default)]
struct WhiteoutScope {
    /// Directories that are hidden, or whose children are.
    gone: HashSet<InodeId>,
    /// Names of symbolic links that are hidden, or that a directory takes.
    replaced: HashSet<(InodeId, Box<[u8]>)>,
}

/// How far a path goes in the tree without a link.
enum Reach<'a> {
    /// All the way, to a directory.
    Directory(InodeId),
    /// To a symbolic link, which is the child of this name; the path may go on.
    Link { parent: InodeId, name: &'a [u8], last: bool },
    /// To where the lower layers have nothing that matters.
    Nowhere,
}

/// Walks a path without following a link; `through` sees every directory, the root first.
fn reach<'a>(tree: &Tree, path: &[&'a [u8]], mut through: impl FnMut(InodeId)) -> Reach<'a> {
    let mut at = tree.root();
    through(at);
    for (index, &name) in path.iter().enumerate() {
        count_step();
        match tree.child(at, name) {
            Some(child) if tree.inode(child).children().is_some() => at = child,
            Some(child) if matches!(tree.inode(child).kind, InodeKind::Symlink(_)) => {
                return Reach::Link { parent: at, name, last: index + 1 == path.len() };
            }
            _ => return Reach::Nowhere,
        }
        through(at);
    }
    Reach::Directory(at)
}

impl WhiteoutScope {
    /// Notes a whiteout; whether it is one.
    fn whiteout(&mut self, tree: &Tree, fate: &Fate<'_>) -> bool {
        match fate {
            Fate::Whiteout { parent, name } => {
                if let Reach::Directory(directory) = reach(tree, parent, |_| {}) {
                    self.note(reach_child(tree, directory, name));
                }
                true
            }
            Fate::Opaque { directory } => {
                if let Reach::Directory(directory) = reach(tree, directory, |_| {}) {
                    self.gone.insert(directory);
                }
                true
            }
            Fate::Kept(_) | Fate::Bookkeeping => false,
        }
    }

    /// Notes a directory of the layer.
    fn directory(&mut self, tree: &Tree, fate: &Fate<'_>) {
        if let Fate::Kept(path) = fate
            && let link @ Reach::Link { last: true, .. } = reach(tree, path, |_| {})
        {
            self.note(link);
        }
    }

    fn note(&mut self, reach: Reach<'_>) {
        match reach {
            Reach::Directory(directory) => drop(self.gone.insert(directory)),
            Reach::Link { parent, name, .. } => drop(self.replaced.insert((parent, name.into()))),
            Reach::Nowhere => {}
        }
    }

    /// Whether the whiteouts of this directory still apply to the lower layers. If the layer replaces or hides a symbolic
    /// link on the directory's path, they refer to the new, empty directory, not to the link's target.
    fn still_applies(&self, tree: &Tree, directory: &[&[u8]]) -> bool {
        let mut gone = false;
        let reach = reach(tree, directory, |directory| gone |= self.gone.contains(&directory));
        match reach {
            Reach::Link { parent, name, .. } => !gone && !self.replaced.contains(&(parent, name.into())),
            Reach::Directory(_) | Reach::Nowhere => true,
        }
    }
}

fn reach_child<'a>(tree: &Tree, directory: InodeId, name: &'a [u8]) -> Reach<'a> {
    let Some(child) = tree.child(directory, name) else { return Reach::Nowhere };
    match &tree.inode(child).kind {
        InodeKind::Directory(_) => Reach::Directory(child),
        InodeKind::Symlink(_) => Reach::Link { parent: directory, name, last: true },
        _ => Reach::Nowhere,
    }
}
