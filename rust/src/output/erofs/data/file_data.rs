//! Where the data of files are, as an image's metadata want to know it.

use std::borrow::Cow;

use crate::contents::{Content, Extent};
use crate::error::Result;
use crate::output::erofs::format::clusters::Clusters;
use crate::output::erofs::format::numbers::BLOCK;
use crate::tree::InodeId;

/// Where the data of one file are.
#[derive(Debug)]
pub enum DataPlace<'a> {
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
    /// In blocks one after the other, or between holes, of another file.
    Device {
        /// Which device has it, counted from 1.
        device: u16,
        /// First block there.
        start: u32,
        /// The content; extents are whole blocks.
        content: Cow<'a, Content>,
    },
    /// Compressed.
    Compressed(Clusters<'a>),
}

/// The data of all files.
pub trait FileData {
    /// Where the data of a file are.
    fn place<'a>(&'a self, id: InodeId, content: &'a Content) -> DataPlace<'a>;

    /// Reads the bytes that wait for the inode; `buffer` is as long as they are.
    ///
    /// # Errors
    /// `io_error`.
    fn read_tail(&self, id: InodeId, content: &Content, buffer: &mut [u8]) -> Result<()>;
}

/// A sparse content with all blocks that have data in its extents; `None` when that is every block.
pub fn whole_blocks(content: &Content) -> Option<Content> {
    content.extents.as_ref()?;
    let block = BLOCK as u64;
    let mut extents: Vec<Extent> = Vec::new();
    for run in content.runs().filter(|run| run.length > 0) {
        let from = run.offset / block * block;
        let to = (run.offset + run.length).next_multiple_of(block).min(content.size);
        match extents.last_mut() {
            Some(last) if last.offset + last.length >= from => last.length = to - last.offset,
            _ => extents.push(Extent { offset: from, length: to - from, stored: 0 }),
        }
    }
    let mut stored = 0;
    for extent in &mut extents {
        extent.stored = stored;
        stored += extent.length.next_multiple_of(block);
    }
    let all = matches!(extents[..], [only] if only.length == content.size);
    (!all && content.size > 0).then(|| Content { extents: Some(extents.into()), ..content.clone() })
}
