//! Extended attributes. Every set stands once, and every long value too.

use std::collections::HashMap;
use std::sync::Arc;

use super::codec::Compression;
use super::format::{Fields, NONE, NOWHERE};
use super::metadata::{MetadataWriter, lookup_table};
use crate::entry::{Metadata, XattrSet};
use crate::error::{Code, Error, Result};

/// The namespaces that squashfs knows, by their numbers (Linux, fs/squashfs/xattr.c).
pub const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// In the type of an attribute: in the place of the value is where it stands.
const ELSEWHERE: u16 = 1 << 8;

/// Values that are longer stand once.
const SHORT: usize = 64;

/// The attributes of an image.
pub struct XattrTable {
    pairs: MetadataWriter,
    sets: HashMap<XattrSet, u32>,
    table: Vec<u8>,
    values: HashMap<Vec<u8>, u64>,
}

impl XattrTable {
    /// None yet.
    ///
    /// # Errors
    /// `output_unsupported` when a library refuses the settings.
    pub fn new(compression: &Compression) -> Result<Self> {
        let pairs = MetadataWriter::new(compression)?;
        Ok(XattrTable { pairs, sets: HashMap::new(), table: Vec::new(), values: HashMap::new() })
    }

    /// The number of an inode's set, [`NONE`] when it has none. All attributes must be ones that squashfs can hold.
    ///
    /// # Errors
    /// `output_unsupported`.
    pub fn number(&mut self, metadata: &Metadata) -> Result<u32> {
        let Some(set) = metadata.xattrs.as_ref().filter(|set| !set.is_empty()) else { return Ok(NONE) };
        if let Some(&number) = self.sets.get(set) {
            return Ok(number);
        }
        let start = self.pairs.position();
        let mut bytes = 0;
        for (name, value) in set.iter() {
            bytes += self.add(name, value)?;
        }
        let number = self.sets.len() as u32;
        self.table.extend(Fields::default().u64(start.reference()).u32(set.len() as u32).u32(bytes as u32).0);
        self.sets.insert(Arc::clone(set), number);
        Ok(number)
    }

    /// Writes a pair; returns its length.
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<usize> {
        let found =
            NAMESPACES.iter().zip(0u16..).find_map(|(space, number)| Some((number, name.strip_prefix(*space)?)));
        let Some((kind, name)) = found else {
            return Err(Error::new(Code::Internal, "an attribute that squashfs cannot hold"));
        };
        let place = if value.len() > SHORT { self.values.get(value).copied() } else { None };
        let kind = if place.is_some() { kind | ELSEWHERE } else { kind };
        let mut pair = Fields::default().u16(kind).u16(name.len() as u16).bytes(name);
        match place {
            Some(place) => pair = pair.u32(8).u64(place),
            None => {
                self.pairs.write(&pair.0)?;
                if value.len() > SHORT {
                    self.values.insert(value.to_vec(), self.pairs.position().reference());
                }
                let length = pair.0.len();
                pair = Fields::default().u32(value.len() as u32).bytes(value);
                self.pairs.write(&pair.0)?;
                return Ok(length + pair.0.len());
            }
        }
        self.pairs.write(&pair.0)?;
        Ok(pair.0.len())
    }

    /// The tables, which stand at `at`, and where the superblock finds them; nothing when there are no attributes.
    ///
    /// # Errors
    /// As [`MetadataWriter::finish`].
    pub fn finish(self, compression: &Compression, at: u64) -> Result<(Vec<u8>, u64)> {
        if self.sets.is_empty() {
            return Ok((Vec::new(), NOWHERE));
        }
        let mut bytes = self.pairs.finish()?;
        let (table, index) = lookup_table(compression, &self.table, at + bytes.len() as u64)?;
        let split = (index - at) as usize - bytes.len();
        bytes.extend_from_slice(&table[..split]);
        bytes.extend(Fields::default().u64(at).u32(self.sets.len() as u32).u32(0).0);
        bytes.extend_from_slice(&table[split..]);
        Ok((bytes, index))
    }
}
