//! Names that a tree has lost on its way, for those who want to know what layers hide.

use std::collections::{HashMap, HashSet};

use super::inode::{Inode, InodeId, InodeKind, ROOT};

/// A name that is gone.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    directory: InodeId,
    name: Box<[u8]>,
    inode: InodeId,
    layer: u32,
    replaced: bool,
}

/// Names in the order in which they went.
#[derive(Clone, Debug, Default)]
pub(super) struct Removed {
    layer: u32,
    edges: Vec<Edge>,
}

impl Removed {
    /// A name is gone, because another took its place or that of a directory above it, or else by a whiteout.
    pub fn note(&mut self, directory: InodeId, name: Box<[u8]>, inode: InodeId, replaced: bool) {
        self.edges.push(Edge { directory, name, inode, layer: self.layer, replaced });
    }

    /// From here on it is this layer that takes names.
    pub fn enter(&mut self, layer: u32) {
        self.layer = layer;
    }

    /// See [`super::Tree::each_gone`].
    pub fn each_gone(&self, inodes: &[Inode], mut take: impl FnMut(Gone)) {
        let inode = |id: InodeId| &inodes[id.index()];
        // Where directories are, or were: a directory has one name in all its life.
        let mut above: HashMap<InodeId, (InodeId, &[u8])> = HashMap::new();
        for edge in &self.edges {
            if inode(edge.inode).children().is_some() {
                above.insert(edge.inode, (edge.directory, &edge.name));
            }
        }
        let mut waiting = vec![ROOT];
        while let Some(directory) = waiting.pop() {
            for (name, &child) in inode(directory).children().into_iter().flatten() {
                if inode(child).children().is_some() {
                    above.insert(child, (directory, name));
                    waiting.push(child);
                }
            }
        }
        let mut told = HashSet::new();
        for edge in self.edges.iter().rev() {
            let gone = inode(edge.inode);
            if gone.nlink > 0 || !matches!(gone.kind, InodeKind::File(_)) || !told.insert(edge.inode) {
                continue;
            }
            let mut names: Vec<&[u8]> = vec![&edge.name];
            let mut directory = edge.directory;
            while let Some(&(parent, name)) = above.get(&directory) {
                names.push(name);
                directory = parent;
            }
            names.reverse();
            take(Gone { path: names.join(&b'/'), inode: edge.inode, layer: edge.layer, replaced: edge.replaced });
        }
    }
}

/// A file that no name leads to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The last name that it had, without a leading slash.
    pub path: Vec<u8>,
    /// The file.
    pub inode: InodeId,
    /// The layer that took this name.
    pub layer: u32,
    /// Whether something else took its place, or that of a directory above; else a whiteout hides it.
    pub replaced: bool,
}
