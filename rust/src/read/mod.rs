//! Readers of filesystem images and archives: what the writers wrote, read by code that shares nothing with them.
//!
//! Each gives a [`Tree`](crate::tree::Tree) and the contents of its files, which are read from the image when they are asked for. An image
//! may come from anywhere: every access is checked, every count is bounded by what the image really holds or by
//! [`Limits`](crate::limits::Limits), and what is not known is refused by name. Nothing here is unsafe.

mod archive;
mod common;
pub mod cpio;
pub mod erofs;
pub mod ext4;
mod format;
pub mod layer;
mod planting;
mod source;
pub mod squashfs;
pub mod tar;
mod unpack;
mod walk;

pub use self::common::Image;
pub use self::format::{Format, read};
pub use self::source::{FileSource, ReadAt};
