//! Metadata: blocks of 8 KiB, each compressed or not, that follow each other. What is read of them may go from one into
//! the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::{Fields, Volume};
use crate::read::unpack::{BlockAlgorithm, unpack};

/// Bytes of a block that is not compressed.
pub(super) const BLOCK: usize = 8192;
/// Marks a block that is not compressed, in its head.
const PLAIN: u16 = 1 << 15;
/// Blocks that are kept.
const KEPT: usize = 64;

/// Where something stands: a block, counted in bytes from a table's begin, and an offset in what it unpacks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub block: u64,
    pub offset: usize,
}

impl Place {
    /// From a reference of 48 bits and 16.
    pub fn of(reference: u64) -> Self {
        Place { block: reference >> 16, offset: (reference & 0xffff) as usize }
    }
}

/// A block that was unpacked, and where the next one begins.
type UnpackedBlock = (Arc<Vec<u8>>, u64);

/// All metadata of an image.
pub(super) struct MetadataReader {
    volume: Volume,
    algorithm: BlockAlgorithm,
    kept: Mutex<VecDeque<(u64, UnpackedBlock)>>,
}

impl MetadataReader {
    pub fn new(volume: Volume, algorithm: BlockAlgorithm) -> Self {
        MetadataReader { volume, algorithm, kept: Mutex::default() }
    }

    /// What reads from a place on.
    pub fn at(&self, start: u64, place: Place) -> Result<Stream<'_>> {
        let address = start.checked_add(place.block).ok_or_else(|| invalid("a block beyond all files"))?;
        let (block, next) = self.block(address)?;
        if place.offset > block.len() {
            return Err(invalid(format!("the block of metadata at byte {address} is shorter than an offset in it")));
        }
        Ok(Stream { metadata: self, block, offset: place.offset, next })
    }

    fn block(&self, at: u64) -> Result<UnpackedBlock> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = kept().iter().find(|(known, _)| *known == at) {
            return Ok(block.clone());
        }
        let head = self.volume.bytes(at, 2)?.u16(0)?;
        let length = head & !PLAIN;
        let stored = self.volume.bytes(at + 2, length.into())?;
        let plain = if head & PLAIN == 0 { unpack(self.algorithm, &stored, BLOCK)? } else { stored };
        if plain.is_empty() || plain.len() > BLOCK {
            return Err(invalid(format!("the block of metadata at byte {at} has {} bytes", plain.len())));
        }
        let block = (Arc::new(plain), at + 2 + u64::from(length));
        let mut kept = kept();
        kept.push_front((at, block.clone()));
        kept.truncate(KEPT);
        Ok(block)
    }
}

/// Reads metadata, block after block.
pub(super) struct Stream<'m> {
    metadata: &'m MetadataReader,
    block: Arc<Vec<u8>>,
    offset: usize,
    next: u64,
}

impl Stream<'_> {
    /// The next bytes, which may be many: memory grows with what is read.
    pub fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < length {
            if self.offset == self.block.len() {
                (self.block, self.next) = self.metadata.block(self.next)?;
                self.offset = 0;
            }
            let part = (length - out.len()).min(self.block.len() - self.offset);
            out.extend_from_slice(self.block.part(self.offset, part)?);
            self.offset += part;
        }
        Ok(out)
    }
}
