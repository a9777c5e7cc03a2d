//! What a tree's names lead to.

use std::collections::BTreeMap;

use crate::contents::Content;
use crate::entry::Metadata;

/// The root directory of every tree.
pub(super) const ROOT: InodeId = InodeId(0);

/// Names an inode for the life of its tree; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub(super) u32);

impl InodeId {
    /// A number from 0 (the root) on, without order or meaning beyond that.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Children of a directory by name, in the order of the names' bytes.
pub type Children = BTreeMap<Box<[u8]>, InodeId>;

/// What an inode is.
#[derive(Clone, Debug)]
pub enum InodeKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Children),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One file of any type, under one name or several.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Mode, owner, time, attributes.
    pub metadata: Metadata,
    /// Type and what belongs to it.
    pub kind: InodeKind,
    /// Names that it has; 0 once the last was removed. A directory has one.
    pub nlink: u32,
}

impl Inode {
    /// The children, when it is a directory.
    pub fn children(&self) -> Option<&Children> {
        match &self.kind {
            InodeKind::Directory(children) => Some(children),
            _ => None,
        }
    }
}

/// What a path makes where nothing is.
pub(super) fn implicit_directory() -> Inode {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    Inode { metadata, kind: InodeKind::Directory(Children::new()), nlink: 1 }
}
