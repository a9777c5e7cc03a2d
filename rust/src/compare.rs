//! Two trees beside each other: the names that one of them lacks, and what differs of those that both have.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::contents::{Content, Contents};
use crate::digest::Digest;
use crate::error::Result;
use crate::output::CHUNK;
use crate::same::content_digest;
use crate::tree::{Inode, InodeId, InodeKind, Step, Tree};

/// One of the two trees, and where its contents are.
pub struct Side<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// What reads its files.
    pub contents: &'a dyn Contents,
}

/// A name that differs.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Path without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// The inode in the first tree, if it has the name.
    pub first: Option<InodeId>,
    /// The inode in the second tree, if it has the name.
    pub second: Option<InodeId>,
    /// What differs, where both have it, in this order: `type`, `mode`, `owner`, `size`, `content`, `target`, `device`,
    /// `xattrs`, `hard_link` (which earlier name of the same file it is), `mtime`.
    pub fields: Vec<&'static str>,
}

/// What differs between two trees, in the order of their walks. Each file is read at most once, and none that both have
/// from the same place.
///
/// # Arguments
/// `shared` says that both trees have their contents in one store, where one place means one content; `times` that
/// modification times count.
///
/// # Errors
/// What reading the contents returns.
pub fn compare(first: &Side<'_>, second: &Side<'_>, shared: bool, times: bool) -> Result<Vec<Change>> {
    let mut comparing = Comparing { known: [HashMap::new(), HashMap::new()], buffer: vec![0; CHUNK], shared, times };
    let mut names = [HashMap::new(), HashMap::new()];
    let (mut left, mut right) = (first.tree.walk().peekable(), second.tree.walk().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return Ok(changes),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => in_walks(&one.path, &other.path),
        };
        let one = if order == Ordering::Greater { None } else { left.next() };
        let other = if order == Ordering::Less { None } else { right.next() };
        let links = [
            one.as_ref().and_then(|step| earlier(first.tree, &mut names[0], step)),
            other.as_ref().and_then(|step| earlier(second.tree, &mut names[1], step)),
        ];
        let (fields, path) = match (&one, &other) {
            (Some(one), Some(other)) => {
                let fields = comparing.fields((first, one.inode), (second, other.inode), links[0] != links[1])?;
                if fields.is_empty() {
                    continue;
                }
                (fields, &one.path)
            }
            (Some(step), None) | (None, Some(step)) => (Vec::new(), &step.path),
            (None, None) => unreachable!("one of the walks has a name"),
        };
        let path = path.clone();
        changes.push(Change { path, first: one.map(|step| step.inode), second: other.map(|step| step.inode), fields });
    }
}

/// The order of a walk: a directory, what is in it, its siblings.
fn in_walks(one: &[u8], other: &[u8]) -> Ordering {
    one.split(|&byte| byte == b'/').cmp(other.split(|&byte| byte == b'/'))
}

/// The first name of a file that has several, unless this is it.
fn earlier(tree: &Tree, names: &mut HashMap<InodeId, Vec<u8>>, step: &Step) -> Option<Vec<u8>> {
    if tree.inode(step.inode).nlink < 2 {
        return None;
    }
    if step.first {
        names.insert(step.inode, step.path.clone());
        return None;
    }
    names.get(&step.inode).cloned()
}

struct Comparing {
    /// Digests of files with several names, so that none is read once for each.
    known: [HashMap<InodeId, Digest>; 2],
    buffer: Vec<u8>,
    shared: bool,
    times: bool,
}

impl Comparing {
    fn fields(
        &mut self,
        (first, one): (&Side<'_>, InodeId),
        (second, other): (&Side<'_>, InodeId),
        linked_otherwise: bool,
    ) -> Result<Vec<&'static str>> {
        let (left, right) = (first.tree.inode(one), second.tree.inode(other));
        let (old, new) = (&left.metadata, &right.metadata);
        let mut fields = Vec::new();
        let mut note = |differs: bool, field| {
            if differs {
                fields.push(field);
            }
        };
        note(std::mem::discriminant(&left.kind) != std::mem::discriminant(&right.kind), "type");
        note(old.mode != new.mode, "mode");
        note((old.uid, old.gid) != (new.uid, new.gid), "owner");
        match (&left.kind, &right.kind) {
            (InodeKind::File(before), InodeKind::File(after)) => {
                note(before.size != after.size, "size");
                let same = before.size == after.size
                    && (self.shared && before == after
                        || self.digest(0, first, (one, left), before)?
                            == self.digest(1, second, (other, right), after)?);
                note(!same, "content");
            }
            (InodeKind::Symlink(before), InodeKind::Symlink(after)) => note(before != after, "target"),
            (
                InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor },
                InodeKind::CharDevice { major: new_major, minor: new_minor }
                | InodeKind::BlockDevice { major: new_major, minor: new_minor },
            ) => note((major, minor) != (new_major, new_minor), "device"),
            _ => {}
        }
        note(old.xattrs != new.xattrs, "xattrs");
        note(linked_otherwise, "hard_link");
        note(self.times && old.mtime != new.mtime, "mtime");
        Ok(fields)
    }

    fn digest(
        &mut self,
        side: usize,
        tree: &Side<'_>,
        (id, inode): (InodeId, &Inode),
        content: &Content,
    ) -> Result<Digest> {
        if let Some(known) = self.known[side].get(&id) {
            return Ok(known.clone());
        }
        let digest = content_digest(tree.contents, content, &mut self.buffer)?;
        if inode.nlink > 1 {
            self.known[side].insert(id, digest.clone());
        }
        Ok(digest)
    }
}
