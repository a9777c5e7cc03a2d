//! What a finished tree is written as. Each output walks the tree; what it cannot hold it reports as a [`Loss`].

mod compress;
mod cpio;
mod directory;
mod dump;
pub mod erofs;
pub mod ext4;
pub mod layer;
mod losses;
mod refused;
mod squashfs;
mod tar;

pub use compress::{Compression, Compressor};
pub use cpio::write_cpio;
pub use directory::{DirectoryStore, write_directory};
pub use dump::{dump, tree_digest};
pub use losses::{Loss, Losses};
pub use squashfs::{squashfs_losses, write_squashfs_tar};
pub use tar::write_tar;

use crate::contents::{Content, Contents};
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::tree::{InodeKind, Tree};

/// Times later than the clamp become the clamp (reproducible-builds.org, SOURCE_DATE_EPOCH).
pub fn clamped(mtime: Mtime, clamp: Option<i64>) -> Mtime {
    match clamp {
        Some(seconds) if mtime >= (Mtime { seconds, nanoseconds: 0 }) => Mtime { seconds, nanoseconds: 0 },
        _ => mtime,
    }
}

/// Longest target of a symbolic link in any file system of Linux (PATH_MAX, with a NUL).
const LINK_TARGET_MAX: usize = 4095;

/// Refuses a tree with a link that nobody can make or follow. Every output that is a file system begins with this;
/// archives hold such a link.
fn refuse_long_links(tree: &Tree) -> Result<()> {
    for step in tree.walk().filter(|step| step.first) {
        if let InodeKind::Symlink(target) = &tree.inode(step.inode).kind
            && target.len() > LINK_TARGET_MAX
        {
            let length = target.len();
            let message = format!("a link target of {length} bytes: Linux has no more than {LINK_TARGET_MAX}");
            let mut error = Error::new(Code::OutputUnsupported, message);
            error.context.path = Some(step.path);
            return Err(error);
        }
    }
    Ok(())
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
