//! One member of a layer, as the tar reader hands it on.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Extended attributes by name, both as bytes. `None` when there are none: most entries have none, and an `Arc` of a
/// set is shared between inodes that have the same one.
pub type Xattrs = Option<XattrSet>;

/// The attributes of an inode that has any.
pub type XattrSet = Arc<BTreeMap<Vec<u8>, Vec<u8>>>;

/// Seconds and nanoseconds since 1970, nanoseconds always counting forward (0 to 999,999,999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds past `seconds`.
    pub nanoseconds: u32,
}

/// The bits of a mode that a file may have whose owner and group are, or are not, those that it was given for: set-id bits
/// go with them. Everything that changes owners, or writes modes where they may not be kept, asks this.
pub fn permitted(mode: u16, owned: bool) -> u16 {
    const SET_ID: u16 = 0o6000;
    if owned { mode } else { mode & !SET_ID }
}

/// The type of a file as directories have it beside its name, by that in its mode (`FT_REG_FILE` and others,
/// include/linux/fs_types.h); 0 for what is no type.
pub fn directory_type(mode: u16) -> u8 {
    [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7, 0, 6, 0, 0, 0][usize::from(mode >> 12)]
}

/// Whether Linux holds the device number: 12 bits of major, 20 of minor.
pub fn is_device(major: u64, minor: u64) -> bool {
    major < 1 << 12 && minor < 1 << 20
}

/// Whether an extended attribute can have the name: it is neither empty nor has a NUL byte.
pub fn is_attribute_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&0)
}

/// What every inode has, whatever its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The type of an entry, with what belongs to that type alone. Link targets are the archive's bytes, uncleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes; its data follow in the stream.
    File {
        /// Apparent size in bytes, holes included.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Target, never looked at before the output.
        target: Vec<u8>,
    },
    /// Another name for a file of this or a lower layer.
    HardLink {
        /// Path of the file, relative to the root of the image.
        target: Vec<u8>,
    },
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

/// One member of a layer, before any decision about its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path as it stands in the archive.
    pub path: Vec<u8>,
    /// Type and what belongs to it.
    pub kind: Kind,
    /// Mode, owner, time, attributes.
    pub metadata: Metadata,
    /// Byte offset of the entry's first header (extensions included) in the decompressed layer.
    pub offset: u64,
}
