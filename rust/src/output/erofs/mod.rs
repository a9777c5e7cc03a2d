//! An erofs image (Linux, Documentation/filesystems/erofs.rst): a file system that is only read, mounted by the kernel.
//!
//! File data go into the image before the tree is known, but for what waits for its place: [`ErofsStore`] is the store that
//! layers are read into. [`write()`] then adds what waited, the metadata, and the superblock last.
//!
//! Three rooms, each of which imports only from those before it: `format` has the numbers and records as they stand on
//! the disk, `data` the contents and the blocks that they take, `meta` all that leads to them.

mod data;
mod format;
mod identity;
mod meta;

pub use data::codec::{Algorithm, Compression};
pub use data::devices::Device;
pub use data::store::ErofsStore;
pub use meta::build::{Options, write};
pub use meta::kept::{Completed, complete_kept, layer_digest, seal};
pub use meta::layered::{LayerInUse, LayeredOptions, layers_in_use, write as write_layered, write_private_layers};
