//! An open image.

use std::sync::Mutex;

use super::metadata::MetadataReader;
use super::records::{Fragment, Opened};
use super::superblock::Superblock;
use crate::read::source::Volume;
use crate::read::unpack::BlockAlgorithm;

/// An open image.
pub(super) struct Image {
    pub volume: Volume,
    pub algorithm: BlockAlgorithm,
    pub superblock: Superblock,
    pub metadata: MetadataReader,
    /// Files that were read last, and fragments.
    pub open: Mutex<Vec<Opened>>,
    pub fragments: Mutex<Vec<Fragment>>,
}
