//! An open image.

use std::sync::Mutex;

use super::metadata::Metadata;
use super::records::{Fragment, Opened};
use super::superblock::Superblock;
use crate::read::source::Volume;
use crate::read::unpack::Algorithm;

/// An open image.
pub(super) struct Image {
    pub volume: Volume,
    pub algorithm: Algorithm,
    pub superblock: Superblock,
    pub metadata: Metadata,
    /// Files that were read last, and fragments.
    pub open: Mutex<Vec<Opened>>,
    pub fragments: Mutex<Vec<Fragment>>,
}
