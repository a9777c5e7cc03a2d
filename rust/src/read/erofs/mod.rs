//! Reads an erofs image, as Linux's documentation describes it (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h)
//! and its own reader takes it: plain, inline and chunked data, devices, compression in both forms of its index, with
//! tails behind inodes and fragments, shared attributes and long prefixes of their names.

mod clusters;
mod image;
mod inode;
mod map;
mod records;
mod superblock;
mod walk;

pub use self::walk::read;
