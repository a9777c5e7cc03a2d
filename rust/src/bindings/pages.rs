use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::tree::{Children, InodeId, Step, Tree};

/// Gives the names of a tree out in pages; remembers where the last page ended, so that the next begins there without
/// a walk over all the names before.
#[derive(Default)]
pub(super) struct Pages {
    ended: Mutex<Option<Ended>>,
}

struct Ended {
    prefix: Vec<u8>,
    /// Names up to and including `path`.
    count: usize,
    path: Vec<u8>,
}

impl Pages {
    /// Path and inode of at most `count` names at and below `prefix`, after the first `start` of them.
    pub fn page(&self, tree: &Tree, prefix: &[u8], start: usize, count: usize) -> Result<Vec<(Vec<u8>, InodeId)>> {
        let root = tree.lookup(prefix, false)?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let known = ended.filter(|ended| ended.count == start && ended.prefix == prefix);
        let named = |step: Step| (step.path, step.inode);
        let page: Vec<_> = match &known {
            Some(ended) => after(tree, root, prefix.len(), &ended.path).take(count).map(named).collect(),
            None => tree.walk_from(root, prefix.to_vec()).skip(start).take(count).map(named).collect(),
        };
        if let Some((path, _)) = page.last() {
            let ended = Ended { prefix: prefix.to_vec(), count: start + page.len(), path: path.clone() };
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        }
        Ok(page)
    }
}

/// The names that a walk from `root`, whose path is the first `length` bytes of `path`, gives after `path`.
fn after<'t>(tree: &'t Tree, root: InodeId, length: usize, path: &'t [u8]) -> impl Iterator<Item = Step> + 't {
    static NONE: Children = Children::new();
    let children = |inode: InodeId| tree.inode(inode).children().unwrap_or(&NONE);
    // Each directory on the way, the length of its path, and the name in it that the walk is at.
    let mut way = Vec::new();
    let (mut inode, mut at) = (root, length);
    let below = path[length..].split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    for name in below {
        way.push((children(inode), at, Bound::Excluded(name)));
        at += name.len() + usize::from(at > 0);
        inode = children(inode).get(name).copied().unwrap_or(inode);
    }
    way.push((children(inode), at, Bound::Unbounded));
    way.into_iter().rev().flat_map(move |(children, at, from)| {
        children.range::<[u8], _>((from, Bound::Unbounded)).flat_map(move |(name, &inode)| {
            let mut child = path[..at].to_vec();
            if at > 0 {
                child.push(b'/');
            }
            child.extend_from_slice(name);
            tree.walk_from(inode, child)
        })
    })
}
