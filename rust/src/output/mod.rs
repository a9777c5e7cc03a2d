//! What a finished tree is written as. Each output walks the tree; what it cannot hold it reports as a [`Loss`].

mod compress;
mod cpio;
mod descriptors;
mod directory;
mod dump;
pub mod erofs;
pub mod ext4;
pub mod layer;
mod squashfs;
mod tar;

pub use compress::{Compression, Compressor};
pub use cpio::write_cpio;
pub use directory::{DirectoryStore, write_directory};
pub use dump::{dump, tree_digest};
pub use squashfs::{squashfs_losses, write_squashfs_tar};
pub use tar::write_tar;

use crate::contents::{Content, Contents};
use crate::entry::Mtime;
use crate::error::Result;

/// Something of the tree that an output could not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// Stable name of the kind: `owner`, `xattr`, `device`, `mtime`, ...
    pub kind: &'static str,
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// What was lost of it.
    pub detail: String,
}

/// Times later than the clamp become the clamp (reproducible-builds.org, SOURCE_DATE_EPOCH).
pub fn clamped(mtime: Mtime, clamp: Option<i64>) -> Mtime {
    match clamp {
        Some(seconds) if mtime >= (Mtime { seconds, nanoseconds: 0 }) => Mtime { seconds, nanoseconds: 0 },
        _ => mtime,
    }
}

/// Bytes read from the contents at a time.
pub const CHUNK: usize = 1 << 20;

/// Hands all bytes of a content on, holes as zeros, through `buffer` (of any size but zero).
///
/// # Errors
/// What reading or `take` returns.
pub fn copy_content(
    contents: &dyn Contents,
    content: &Content,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut offset = 0;
    while offset < content.size {
        let length = contents.read_at(content, offset, buffer)?;
        take(&buffer[..length])?;
        offset += length as u64;
    }
    Ok(())
}
