//! What all readers have in common.

use std::sync::Arc;

use crate::contents::{Content, Contents};
use crate::error::{Code, Error};
use crate::tree::Tree;

/// An image that was read.
pub struct Image {
    /// Its names and inodes.
    pub tree: Tree,
    /// Its files.
    pub contents: Arc<dyn Contents>,
}

/// What is damaged, or not known.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::FilesystemInvalid, message)
}

/// How much of a content a read of `length` bytes at `offset` gives.
pub(super) fn wanted(content: &Content, offset: u64, length: usize) -> usize {
    usize::try_from(content.size.saturating_sub(offset)).map_or(length, |left| left.min(length))
}

/// Major and minor of a device number as Linux encodes it in 32 bits.
pub(super) fn device_numbers(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}
