//! What an image is read from: bytes at offsets, each access checked against what is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::common::invalid;
use crate::error::{Error, Result};

/// Bytes that can be read at any offset, from several threads at once.
pub trait ReadAt: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buffer` from byte `offset` on; the caller has checked that all of it is there.
    ///
    /// # Errors
    /// What the system says.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A regular file, as long as it was when it was opened.
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// Takes a file as it is now.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(file: File) -> Result<Self> {
        let size = file.metadata().map_err(|error| Error::io("cannot read the image", &error))?.len();
        Ok(FileSource { file, size })
    }
}

impl ReadAt for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let part = self.get(from..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// A source with checked access.
#[derive(Clone)]
pub(super) struct Volume(Arc<dyn ReadAt>);

impl Volume {
    pub fn new(source: Arc<dyn ReadAt>) -> Self {
        Volume(source)
    }

    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Whether all of a range is there.
    pub fn has(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.size())
    }

    /// Fills a buffer.
    ///
    /// # Errors
    /// `filesystem_invalid` for what is not there; `io_error`.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if !self.has(offset, buffer.len() as u64) {
            let (length, size) = (buffer.len(), self.size());
            return Err(invalid(format!("{length} bytes at byte {offset} lie beyond its end, {size}")));
        }
        self.0.fill(offset, buffer).map_err(|error| Error::io("cannot read the image", &error))
    }

    /// The bytes of a range; memory is taken only for what is there.
    ///
    /// # Errors
    /// As [`Volume::fill`].
    pub fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        if !self.has(offset, length) {
            let size = self.size();
            return Err(invalid(format!("{length} bytes at byte {offset} lie beyond its end, {size}")));
        }
        let mut buffer = vec![0; usize::try_from(length).map_err(|_| invalid("more than memory can hold"))?];
        self.fill(offset, &mut buffer)?;
        Ok(buffer)
    }
}

/// Numbers in a record, least significant byte first. What is not there reads as nothing: an error.
pub(super) trait Fields {
    /// The bytes of a field.
    ///
    /// # Errors
    /// `filesystem_invalid` where the record ends before.
    fn part(&self, at: usize, length: usize) -> Result<&[u8]>;

    fn u8(&self, at: usize) -> Result<u8> {
        Ok(self.part(at, 1)?[0])
    }

    fn u16(&self, at: usize) -> Result<u16> {
        Ok(number(self.part(at, 2)?) as u16)
    }

    fn u32(&self, at: usize) -> Result<u32> {
        Ok(number(self.part(at, 4)?) as u32)
    }

    fn u64(&self, at: usize) -> Result<u64> {
        Ok(number(self.part(at, 8)?))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl Fields for [u8] {
    fn part(&self, at: usize, length: usize) -> Result<&[u8]> {
        let end = at.checked_add(length);
        end.and_then(|end| self.get(at..end)).ok_or_else(|| invalid("a record ends before its fields do"))
    }
}
