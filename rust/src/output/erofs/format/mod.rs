//! The numbers and records of the format as they stand on the disk: bytes only, nothing is read or written.

pub mod clusters;
pub mod inode;
pub mod numbers;
pub mod superblock;
pub mod xattr;
