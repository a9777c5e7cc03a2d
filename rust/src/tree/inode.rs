//! What a tree's names lead to.

use std::collections::BTreeMap;

use crate::contents::Content;
use crate::entry::{Kind, Metadata};

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

impl InodeKind {
    /// What an entry of a layer makes, with the content of a regular file. A hard link makes none: its target is returned
    /// as the error.
    ///
    /// # Errors
    /// The target of a hard link.
    pub fn of(kind: Kind, content: Option<Content>) -> Result<Self, Vec<u8>> {
        Ok(match kind {
            Kind::HardLink { target } => return Err(target),
            Kind::Directory => InodeKind::Directory(Children::new()),
            Kind::File { .. } => match content {
                Some(content) => InodeKind::File(content),
                None => unreachable!("a regular file comes with its content"),
            },
            Kind::Symlink { target } => InodeKind::Symlink(target.into()),
            Kind::CharDevice { major, minor } => InodeKind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => InodeKind::BlockDevice { major, minor },
            Kind::Fifo => InodeKind::Fifo,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            InodeKind::File(_) => "file",
            InodeKind::Directory(_) => "directory",
            InodeKind::Symlink(_) => "symlink",
            InodeKind::CharDevice { .. } => "char",
            InodeKind::BlockDevice { .. } => "block",
            InodeKind::Fifo => "fifo",
        }
    }

    /// The type bits of a mode (`S_IFMT`, include/uapi/linux/stat.h).
    pub fn type_bits(&self) -> u16 {
        match self {
            InodeKind::Fifo => 0o010000,
            InodeKind::CharDevice { .. } => 0o020000,
            InodeKind::Directory(_) => 0o040000,
            InodeKind::BlockDevice { .. } => 0o060000,
            InodeKind::File(_) => 0o100000,
            InodeKind::Symlink(_) => 0o120000,
        }
    }

    /// Major and minor number, 0 of what is no device.
    pub fn device(&self) -> (u32, u32) {
        match *self {
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        }
    }
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
