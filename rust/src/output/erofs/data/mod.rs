//! The data of files: where contents wait in the image, how they are compressed, and which blocks are free.

pub mod ahead;
pub mod block_map;
pub mod codec;
pub mod compress;
pub mod devices;
pub mod file_data;
pub mod in_image_layer;
pub mod layer_files;
pub mod store;
