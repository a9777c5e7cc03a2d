//! Positioned writes to the image, gathered into large ones while they are adjacent.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};

const BUFFER: usize = 1 << 20;

/// One of several places of the image that are written side by side.
pub(super) struct Stream<'a> {
    file: &'a File,
    /// Where the buffer's first byte goes.
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Stream<'a> {
    /// Writes into `file`.
    pub fn new(file: &'a File) -> Self {
        Stream { file, start: 0, buffer: Vec::new() }
    }

    /// Gathers `bytes` for `offset`.
    ///
    /// # Errors
    /// `io_error`, here and below.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let space = self.space(offset, bytes.len())?;
        if let Some(space) = space.get_mut(..bytes.len()) {
            space.copy_from_slice(bytes);
            return Ok(());
        }
        let (head, tail) = bytes.split_at(space.len());
        space.copy_from_slice(head);
        self.put(offset + head.len() as u64, tail)
    }

    /// Room for the bytes at `offset`, to be filled by the caller: `most`, or fewer but at least one.
    pub fn space(&mut self, offset: u64, most: usize) -> Result<&mut [u8]> {
        if self.start + self.buffer.len() as u64 != offset || self.buffer.len() == BUFFER {
            self.flush()?;
            self.start = offset;
        }
        let filled = self.buffer.len();
        self.buffer.resize((filled + most).min(BUFFER), 0);
        Ok(&mut self.buffer[filled..])
    }

    /// Writes what is gathered.
    pub fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            let written = self.file.write_all_at(&self.buffer, self.start);
            written.map_err(|error| Error::io("cannot write the image", &error))?;
            self.buffer.clear();
        }
        Ok(())
    }
}
