//! A squashfs 4.0 image (Linux, Documentation/filesystems/squashfs.rst): a compressed file system that is only read.
//!
//! [`SquashfsStore`] is the store that layers are read into: it compresses blocks while they arrive. [`write`] puts those
//! that the tree still has into the image, and behind them the ends of files and the metadata.

mod codec;
mod directory;
mod fit;
mod format;
mod fragments;
mod ids;
mod image;
mod inode;
mod intake;
mod metadata;
mod options;
mod placed;
mod pool;
mod store;
mod tree_writer;
mod xattr;

pub use codec::{Algorithm, Compression};
pub(super) use fit::fit;
pub use image::write;
pub use options::Options;
pub use store::SquashfsStore;
