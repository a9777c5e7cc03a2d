//! The data of a decoded layer, as its own image finds them: whole blocks in the order of the archive.

use std::borrow::Cow;

use super::file_data::{DataPlace, FileData, whole_blocks};
use crate::blocks;
use crate::contents::Content;
use crate::error::Result;
use crate::output::erofs::format::numbers::BLOCK;
use crate::tree::InodeId;

const _: () = assert!(blocks::BLOCK == BLOCK as u64, "data of layers stand in blocks of an erofs image");

/// Data whose place [`Content::position`] says, in bytes.
pub struct LayerFiles;

impl FileData for LayerFiles {
    fn place<'a>(&'a self, _: InodeId, content: &'a Content) -> DataPlace<'a> {
        let start = if blocks::length_of(content) > 0 { (content.position / blocks::BLOCK) as u32 } else { 0 };
        match whole_blocks(content) {
            Some(content) => DataPlace::Sparse { start, content: Cow::Owned(content) },
            None => DataPlace::Flat { start, tail: 0 },
        }
    }

    fn read_tail(&self, _: InodeId, _: &Content, _: &mut [u8]) -> Result<()> {
        unreachable!("whole blocks have no tails")
    }
}
