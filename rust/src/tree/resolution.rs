//! A path on its way through a tree.

use super::inode::{Inode, InodeId, InodeKind, ROOT};
use crate::error::{Code, Error, Result};

/// Symbolic links followed for one path before it is taken for a loop (as Linux, path_resolution(7)).
pub const SYMLINKS_MAX: usize = 40;

/// Where a path led, and what it took to get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The inode.
    pub inode: InodeId,
    /// Bytes of its path from the root, without any link.
    pub path_bytes: usize,
    /// Bytes of the link targets on the way.
    pub followed_bytes: u64,
}

impl Found {
    /// How many bytes its path is longer than the one that led there. Every walk over a tree makes every path anew: one
    /// that a link made longer has to count like one that came so.
    pub fn excess(&self, way: &[&[u8]]) -> u64 {
        self.path_bytes.saturating_sub(way.iter().map(|name| name.len() + 1).sum()) as u64
    }
}

#[cfg(test)]
thread_local! {
    /// Components of paths that were walked by this thread.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts a component of a path, for the tests: work must follow the bytes of a layer.
pub(crate) fn count_step() {
    #[cfg(test)]
    STEPS.set(STEPS.get() + 1);
}

/// Nothing is copied: the components still to go are borrowed from the path and from the targets of links on the way.
pub(super) struct Resolution<'p> {
    /// Directories from the root to where we are, each with the bytes of its path; the last may turn out to be
    /// something else at the path's end.
    stack: Vec<(InodeId, usize)>,
    components: std::slice::Iter<'p, &'p [u8]>,
    /// Links whose targets are not at their end, and where in each the next component begins.
    links: Vec<(InodeId, usize)>,
    followed: usize,
    followed_bytes: u64,
}

impl<'p> Resolution<'p> {
    pub fn new(components: &'p [&'p [u8]]) -> Self {
        let (stack, links) = (vec![(ROOT, 0)], Vec::new());
        Resolution { stack, components: components.iter(), links, followed: 0, followed_bytes: 0 }
    }

    fn top(&self) -> (InodeId, usize) {
        self.stack.last().copied().unwrap_or((ROOT, 0))
    }

    pub fn directory(&self) -> InodeId {
        self.top().0
    }

    /// Directories from the root to where we are, the root included.
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Where we are.
    pub fn found(&self) -> Found {
        let (inode, path_bytes) = self.top();
        Found { inode, path_bytes, followed_bytes: self.followed_bytes }
    }

    fn at_end(&self) -> bool {
        self.links.is_empty() && self.components.as_slice().is_empty()
    }

    /// The next component: of the innermost link that is being followed, or else of the path.
    fn component<'n>(&mut self, inodes: &'n [Inode]) -> Option<&'n [u8]>
    where
        'p: 'n,
    {
        count_step();
        let Some(&(link, from)) = self.links.last() else {
            return self.components.next().copied();
        };
        let InodeKind::Symlink(target) = &inodes[link.index()].kind else {
            unreachable!("a link stays one while a path goes through it");
        };
        let rest = &target[from..];
        let Some(slash) = rest.iter().position(|&byte| byte == b'/') else {
            self.links.pop();
            return Some(rest);
        };
        if let Some((_, next)) = self.links.last_mut() {
            *next = from + slash + 1;
        }
        Some(&rest[..slash])
    }

    /// The next name to look up, and whether it is the path's last.
    pub fn next<'n>(&mut self, inodes: &'n [Inode]) -> Option<(&'n [u8], bool)>
    where
        'p: 'n,
    {
        loop {
            match self.component(inodes)? {
                b"" | b"." => {}
                b".." => {
                    if self.stack.len() > 1 {
                        self.stack.pop();
                    }
                }
                name => return Some((name, self.at_end())),
            }
        }
    }

    /// Descends into a child, whose name has `length` bytes, following it if it is a symbolic link. Returns false if
    /// components of the path remain, even `..` or a trailing slash, but the child is no directory.
    pub fn enter(&mut self, inode: &Inode, id: InodeId, length: usize, last: bool, follow_last: bool) -> Result<bool> {
        match &inode.kind {
            InodeKind::Symlink(target) if !last || follow_last => {
                self.followed += 1;
                self.followed_bytes += target.len() as u64;
                if self.followed > SYMLINKS_MAX {
                    return Err(Error::new(Code::EntryRefused, "the path goes through too many symbolic links"));
                }
                if target.first() == Some(&b'/') {
                    self.stack.truncate(1);
                }
                self.links.push((id, 0));
                Ok(true)
            }
            _ => {
                let above = self.top().1;
                self.stack.push((id, above + usize::from(above > 0) + length));
                Ok(self.at_end() || inode.children().is_some())
            }
        }
    }
}
