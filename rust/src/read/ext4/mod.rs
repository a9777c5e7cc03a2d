//! Reads an ext4 image, as the kernel's documentation describes it (filesystems/ext4): extents, linear and hashed
//! directories, both widths of block numbers, attributes in inodes, in blocks and in inodes of their own. A journal that
//! was not replayed is refused.

mod image;
mod inode;
mod records;
mod superblock;
mod walk;
mod xattr;

pub use self::walk::read;
