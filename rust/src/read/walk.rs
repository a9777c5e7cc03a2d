//! The walk through the directories of an image whose inodes have numbers, or places that serve as such.

use std::collections::HashMap;
use std::hash::Hash;

use super::common::invalid;
use super::planting::Planting;
use crate::entry::Metadata;
use crate::error::Result;
use crate::limits::Limits;
use crate::tree::{InodeId, InodeKind, Tree};

/// A tree on its way. `K` tells inodes apart, and `D` says where the names of a directory are.
pub(super) struct DirectoryWalk<K, D = K> {
    pub planting: Planting,
    known: HashMap<K, InodeId>,
    waiting: Vec<Directory<D>>,
}

/// A directory whose names are still to be read.
pub(super) struct Directory<D> {
    id: InodeId,
    /// Where its names are.
    pub names: D,
    depth: usize,
}

impl<K: Copy + Eq + Hash, D> DirectoryWalk<K, D> {
    pub fn new(limits: &Limits) -> Self {
        DirectoryWalk { planting: Planting::new(limits), known: HashMap::new(), waiting: Vec::new() }
    }

    /// Begins at the root.
    pub fn begin(&mut self, key: K, metadata: Metadata, names: D) {
        let id = self.planting.root();
        self.planting.set_root(metadata);
        self.known.insert(key, id);
        self.waiting.push(Directory { id, names, depth: 0 });
    }

    /// The next directory.
    pub fn next(&mut self) -> Option<Directory<D>> {
        self.waiting.pop()
    }

    /// Gives an inode one more name. False when this is its first: then [`DirectoryWalk::add`] is to be called.
    ///
    /// # Errors
    /// As [`Planting::name`]; `filesystem_invalid` for a second name of a directory.
    pub fn link(&mut self, directory: &Directory<D>, name: &[u8], key: K) -> Result<bool> {
        let Some(&known) = self.known.get(&key) else { return Ok(false) };
        if self.planting.is_directory(known) {
            return Err(invalid(format!("the directory \"{}\" has another name already", name.escape_ascii())));
        }
        self.planting.name(directory.id, name, known, directory.depth + 1)?;
        Ok(true)
    }

    /// Gives an inode its first name; `names` says where those in it are, if it is a directory.
    ///
    /// # Errors
    /// As [`Planting::add`] and [`Planting::name`].
    pub fn add(
        &mut self,
        directory: &Directory<D>,
        name: &[u8],
        key: K,
        (metadata, kind): (Metadata, InodeKind),
        names: Option<D>,
    ) -> Result<()> {
        let depth = directory.depth + 1;
        let id = self.planting.add(metadata, kind)?;
        self.planting.name(directory.id, name, id, depth)?;
        self.known.insert(key, id);
        self.waiting.extend(names.map(|names| Directory { id, names, depth }));
        Ok(())
    }

    /// The tree.
    pub fn finish(self) -> Tree {
        self.planting.finish()
    }
}
