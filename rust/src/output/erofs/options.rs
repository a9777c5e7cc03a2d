//! What an image says that its tree does not.

use crate::entry::Mtime;

/// What is not in the tree.
#[derive(Clone, Debug)]
pub struct Options {
    /// Identity of the image.
    pub uuid: [u8; 16],
    /// When the image was built. Inodes with just this mtime need half the space of others.
    pub build_time: Mtime,
    /// Later mtimes become this, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
}
