//! A tree in the making, held to limits: what a damaged or hostile image can make us keep is bounded by them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::common::invalid;
use crate::contents::Content;
use crate::entry::{Metadata, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::tree::{InodeId, InodeKind, Tree};

/// Grows a tree name by name.
pub(super) struct Planting {
    tree: Tree,
    limits: Limits,
    names: u64,
    metadata_bytes: u64,
    content_bytes: u64,
    sets: HashSet<Arc<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

fn beyond(what: &str, limit: impl std::fmt::Display) -> Error {
    Error::new(Code::LimitExceeded, format!("the image has more than {limit} {what}"))
}

impl Planting {
    pub fn new(limits: &Limits) -> Self {
        Planting {
            tree: Tree::new(),
            limits: limits.clone(),
            names: 1,
            metadata_bytes: 0,
            content_bytes: 0,
            sets: HashSet::new(),
        }
    }

    pub fn root(&self) -> InodeId {
        self.tree.root()
    }

    /// Sets what the root directory itself has.
    pub fn set_root(&mut self, metadata: Metadata) {
        let root = self.tree.root();
        self.tree.inode_mut(root).metadata = metadata;
    }

    /// Sets the content of a file that was added without one.
    pub fn set_content(&mut self, inode: InodeId, content: Content) -> Result<()> {
        self.charge_content(&content)?;
        self.tree.inode_mut(inode).kind = InodeKind::File(content);
        Ok(())
    }

    /// Takes a set of attributes into account; of a shared one once.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        self.metadata_bytes += bytes as u64;
        if self.metadata_bytes > self.limits.metadata_bytes {
            return Err(beyond("bytes of names, link targets and attributes", self.limits.metadata_bytes));
        }
        Ok(())
    }

    /// A set of attributes, which takes memory once however many inodes have it.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn shared(&mut self, set: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Xattrs> {
        if set.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.sets.get(&set) {
            return Ok(Some(Arc::clone(known)));
        }
        self.charge(set.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        Ok(Some(set))
    }

    /// Takes bytes into account that have to be read: many inodes may name the same ones.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn charge_bytes(&mut self, bytes: u64) -> Result<()> {
        self.content_bytes = self.content_bytes.saturating_add(bytes);
        if self.content_bytes > self.limits.image_bytes {
            return Err(beyond("bytes of files", self.limits.image_bytes));
        }
        Ok(())
    }

    /// Whether a list of `count` records of `size` bytes may be in memory for a while, which compression may have made
    /// much smaller than it is.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn allow_list(&self, count: u64, size: u64) -> Result<()> {
        if count.saturating_mul(size) > self.limits.metadata_bytes {
            return Err(beyond("bytes in the list of one file's blocks", self.limits.metadata_bytes));
        }
        Ok(())
    }

    fn charge_content(&mut self, content: &Content) -> Result<()> {
        self.charge_bytes(content.size)?;
        self.charge(content.extents.as_ref().map_or(0, |extents| extents.len() * 24))
    }

    /// An inode that has no name yet.
    ///
    /// # Errors
    /// `limit_exceeded`; `filesystem_invalid` for a link target that Linux does not hold.
    pub fn add(&mut self, metadata: Metadata, kind: InodeKind) -> Result<InodeId> {
        match &kind {
            InodeKind::File(content) => self.charge_content(content)?,
            InodeKind::Symlink(target) => {
                if target.is_empty() || target.contains(&0) {
                    return Err(invalid("a symbolic link leads nowhere"));
                }
                self.charge(target.len())?;
            }
            _ => {}
        }
        self.tree.add(metadata, kind).map_err(|error| invalid(error.message))
    }

    /// Gives an inode a name; `depth` counts the directories above it, the root included.
    ///
    /// # Errors
    /// `limit_exceeded`; `filesystem_invalid` for what is no name, or stands twice in its directory.
    pub fn name(&mut self, directory: InodeId, name: &[u8], inode: InodeId, depth: usize) -> Result<()> {
        // A name may stand below as many directories as the path of an entry and those that links lead through.
        if depth > 2 * self.limits.depth {
            return Err(beyond("directories below each other", 2 * self.limits.depth));
        }
        self.names += 1;
        if self.names > self.limits.entries {
            return Err(beyond("names", self.limits.entries));
        }
        self.charge(name.len())?;
        if self.tree.child(directory, name).is_some() {
            return Err(invalid(format!("the name \"{}\" stands twice in a directory", name.escape_ascii())));
        }
        self.tree.link(directory, name, inode).map_err(|error| invalid(error.message))
    }

    /// The child of a directory.
    pub fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.tree.child(directory, name)
    }

    /// Whether an inode is a directory.
    pub fn is_directory(&self, inode: InodeId) -> bool {
        self.tree.inode(inode).children().is_some()
    }

    pub fn finish(self) -> Tree {
        self.tree
    }
}
