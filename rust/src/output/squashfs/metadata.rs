//! Metadata: one long run of bytes, cut into blocks of 8 KiB that are compressed one by one.

use super::codec::{BlockCodec, Compression};
use super::format::{METADATA, METADATA_PLAIN};
use crate::error::Result;

/// Where something begins in a run of metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Where its block begins, in stored bytes from the first block of the run.
    pub block: u64,
    /// Plain bytes before it in the block.
    pub offset: u16,
}

impl Position {
    /// As references to metadata are written.
    pub fn reference(self) -> u64 {
        self.block << 16 | u64::from(self.offset)
    }

    /// What such a reference says.
    pub fn of(reference: u64) -> Self {
        Position { block: reference >> 16, offset: reference as u16 }
    }
}

/// Writes one run.
pub struct MetadataWriter {
    codec: BlockCodec,
    plain: Vec<u8>,
    stored: Vec<u8>,
    taken: u64,
}

impl MetadataWriter {
    /// An empty run.
    ///
    /// # Errors
    /// As [`BlockCodec::new`].
    pub fn new(compression: &Compression) -> Result<Self> {
        let plain = Vec::with_capacity(METADATA);
        Ok(MetadataWriter { codec: BlockCodec::new(compression)?, plain, stored: Vec::new(), taken: 0 })
    }

    /// Where the next byte goes.
    pub fn position(&self) -> Position {
        Position { block: self.taken + self.stored.len() as u64, offset: self.plain.len() as u16 }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// As [`BlockCodec::compress`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA - self.plain.len()));
            self.plain.extend_from_slice(now);
            bytes = later;
            if self.plain.len() == METADATA {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        store(&mut self.codec, &self.plain, &mut self.stored)?;
        self.plain.clear();
        Ok(())
    }

    /// Stored bytes that were not taken yet.
    pub fn waiting(&self) -> usize {
        self.stored.len()
    }

    /// Takes the stored bytes of complete blocks.
    pub fn take(&mut self) -> Vec<u8> {
        self.taken += self.stored.len() as u64;
        std::mem::take(&mut self.stored)
    }

    /// The run is complete: takes the rest.
    ///
    /// # Errors
    /// As [`BlockCodec::compress`].
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.flush()?;
        Ok(self.stored)
    }
}

fn store(codec: &mut BlockCodec, plain: &[u8], stored: &mut Vec<u8>) -> Result<()> {
    let compressed = codec.compress(plain)?;
    let (bytes, flag) = compressed.map_or((plain, METADATA_PLAIN), |compressed| (compressed, 0));
    stored.extend_from_slice(&(bytes.len() as u16 | flag).to_le_bytes());
    stored.extend_from_slice(bytes);
    Ok(())
}

/// A table that is read by number: entries of one length in blocks of metadata, and behind them an index of these blocks.
/// `at` is where the first of it will stand. Returns the bytes, and where the index is in the image.
///
/// # Errors
/// As [`BlockCodec::compress`].
pub fn lookup_table(compression: &Compression, entries: &[u8], at: u64) -> Result<(Vec<u8>, u64)> {
    let mut codec = BlockCodec::new(compression)?;
    let (mut stored, mut index) = (Vec::new(), Vec::new());
    for plain in entries.chunks(METADATA) {
        index.extend_from_slice(&(at + stored.len() as u64).to_le_bytes());
        store(&mut codec, plain, &mut stored)?;
    }
    let start = at + stored.len() as u64;
    stored.extend_from_slice(&index);
    Ok((stored, start))
}
