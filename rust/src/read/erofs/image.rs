//! An open image.

use std::sync::Mutex;

use super::records::Opened;
use super::superblock::Superblock;
use crate::read::source::Volume;

/// An open image.
pub(super) struct Image {
    /// The image, then its devices in the order of their table.
    pub volumes: Vec<Volume>,
    pub superblock: Superblock,
    /// Long prefixes of attributes: the number of a usual one, and what follows it.
    pub prefixes: Vec<(u8, Vec<u8>)>,
    /// The inode of fragments.
    pub packed: Mutex<Option<Opened>>,
    /// Files that were read last, the latest at the end.
    pub open: Mutex<Vec<Opened>>,
}

impl Image {
    /// The image itself.
    pub fn primary(&self) -> &Volume {
        &self.volumes[0]
    }
}
