//! The numbers and on-disk records of the format: bytes only, nothing is read or written.

pub mod clusters;
pub mod inode;
pub mod numbers;
pub mod superblock;
pub mod xattr;
