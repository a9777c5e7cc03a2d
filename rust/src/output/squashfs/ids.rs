//! Owners and groups: inodes name them by their number in one table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::error::{Code, Error, Result};

/// Most numbers in the table, whose length the superblock has 16 bits for.
const IDS_MAX: usize = u16::MAX as usize;

/// The table.
#[derive(Debug, Default)]
pub struct Ids {
    known: HashMap<u32, u16>,
    table: Vec<u8>,
}

impl Ids {
    /// The number of an owner or group in the table.
    ///
    /// # Errors
    /// `output_unsupported` when there is no room.
    pub fn number(&mut self, id: u32) -> Result<u16> {
        let count = self.known.len();
        match self.known.entry(id) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(_) if count == IDS_MAX => {
                let message = format!("squashfs holds {IDS_MAX} different owners and groups; the image has more");
                Err(Error::new(Code::OutputUnsupported, message))
            }
            Entry::Vacant(new) => {
                self.table.extend_from_slice(&id.to_le_bytes());
                Ok(*new.insert(count as u16))
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.known.len() as u16
    }

    /// The entries, one after the other.
    pub fn table(&self) -> &[u8] {
        &self.table
    }
}
