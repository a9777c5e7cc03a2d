//! An erofs image (Linux, Documentation/filesystems/erofs.rst): a file system that is only read, mounted by the kernel.
//!
//! File data are in the image before the tree is known: [`ErofsStore`] is the store that layers are read into.
//! [`finish`] then adds the metadata, and the superblock last.

mod clusters;
mod codec;
mod compress;
mod devices;
mod directory;
mod files;
mod format;
mod image;
mod inode;
mod intake;
mod kept;
mod layer_files;
mod layered;
mod layout;
mod options;
mod plan;
mod space;
mod store;
mod superblock;
mod writer;
mod xattr;

pub use codec::{Algorithm, Compression};
pub use devices::Device;
pub use image::{Summary, finish, finish_layer, write_compressed};
pub use kept::{Completed, complete_kept, layer_digest, seal};
pub use layered::{LayerInUse, layers_in_use, write_layered, write_private_layers};
pub use options::Options;
pub use store::ErofsStore;
