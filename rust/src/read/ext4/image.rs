//! An open image.

use std::sync::Mutex;

use super::records::Run;
use super::superblock::Superblock;
use crate::read::source::Volume;

/// An open image.
pub(super) struct Image {
    pub volume: Volume,
    pub superblock: Superblock,
    /// Runs of the files that were read last.
    pub open: Mutex<Vec<(u32, Vec<Run>)>>,
}
