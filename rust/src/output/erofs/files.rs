//! Where the data of files are, as an image's metadata want to know it.

use std::borrow::Cow;

use super::clusters::Clusters;
use crate::contents::Content;
use crate::error::Result;
use crate::tree::InodeId;

/// Where the data of one file are.
#[derive(Debug)]
pub enum Place<'a> {
    /// In blocks one after the other; the last `tail` bytes wait for the inode.
    Flat {
        /// First block, 0 when there is none.
        start: u32,
        /// Bytes that are not in blocks.
        tail: usize,
    },
    /// In blocks one after the other, between holes.
    Sparse {
        /// First block.
        start: u32,
        /// The content with extents that are whole blocks.
        content: Cow<'a, Content>,
    },
    /// Compressed.
    Compressed(Clusters<'a>),
}

/// The data of all files.
pub trait Files {
    /// Where the data of a file are.
    fn place<'a>(&'a self, id: InodeId, content: &'a Content) -> Place<'a>;

    /// Reads the bytes that wait for the inode; `buffer` is as long as they are.
    ///
    /// # Errors
    /// `io_error`.
    fn read_tail(&self, id: InodeId, content: &Content, buffer: &mut [u8]) -> Result<()>;
}
