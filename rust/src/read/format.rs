//! The formats, and the reader of each.

use std::sync::Arc;

use super::common::Image;
use super::source::ReadAt;
use super::{cpio, erofs, ext4, squashfs, tar};
use crate::error::Result;
use crate::limits::Limits;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An erofs image.
    Erofs,
    /// A squashfs image.
    Squashfs,
    /// An ext4 image.
    Ext4,
    /// A cpio archive.
    Cpio,
    /// A tar archive.
    Tar,
}

impl Format {
    /// The format of that name.
    pub fn parse(name: &str) -> Option<Self> {
        let known = [
            ("erofs", Format::Erofs),
            ("squashfs", Format::Squashfs),
            ("ext4", Format::Ext4),
            ("cpio", Format::Cpio),
            ("tar", Format::Tar),
        ];
        known.into_iter().find(|(known, _)| *known == name).map(|(_, format)| format)
    }
}

/// Reads an image.
///
/// # Errors
/// `filesystem_invalid` for what is damaged, or needs a feature that is not known, which is named; `limit_exceeded`;
/// `io_error`.
pub fn read(source: Arc<dyn ReadAt>, format: Format, limits: &Limits) -> Result<Image> {
    match format {
        Format::Erofs => erofs::read(source, Vec::new(), limits),
        Format::Squashfs => squashfs::read(source, limits),
        Format::Ext4 => ext4::read(source, limits),
        Format::Cpio => cpio::read(source, limits),
        Format::Tar => tar::read(source, limits),
    }
}
