//! Reads a squashfs image of version 4.0, as Linux's documentation describes it (Documentation/filesystems/squashfs.rst)
//! and its own reader takes it: gzip, xz, lz4 and zstd, fragments, holes, both forms of inodes, attributes.

mod data;
mod image;
mod inode;
mod metadata;
mod records;
mod superblock;
mod walk;

pub use self::walk::read;
