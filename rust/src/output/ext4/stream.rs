//! Positioned writes to the image, gathered into large ones while they are adjacent.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::output::behind::Behind;

const BUFFER: usize = 1 << 20;

/// One of several places of the image that are written side by side.
pub(super) struct Stream<'a> {
    file: &'a File,
    /// Writes in the place of this thread.
    behind: Option<Behind>,
    /// Where the buffer's first byte goes.
    start: u64,
    /// Bytes of it that are to be written.
    filled: usize,
    buffer: Vec<u8>,
}

impl<'a> Stream<'a> {
    /// Writes into `file`.
    pub fn new(file: &'a File) -> Self {
        Stream { file, behind: None, start: 0, filled: 0, buffer: Vec::new() }
    }

    /// Has a thread of its own write into `file`: for the one place to which most goes.
    ///
    /// # Errors
    /// `io_error` when there can be none.
    pub fn behind(file: &'a File) -> Result<Self> {
        let own = file.try_clone().map_err(|error| Error::io("cannot write the image", &error))?;
        Ok(Stream { behind: Some(Behind::placed(own)?), ..Stream::new(file) })
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

    /// Room for the bytes at `offset`, all to be filled by the caller: `most`, or fewer but at least one.
    pub fn space(&mut self, offset: u64, most: usize) -> Result<&mut [u8]> {
        if self.start + self.filled as u64 != offset || self.filled == BUFFER {
            self.flush()?;
            self.start = offset;
        }
        let from = self.filled;
        self.filled = (from + most).min(BUFFER);
        if self.buffer.len() < self.filled {
            self.buffer.resize(self.filled, 0);
        }
        Ok(&mut self.buffer[from..self.filled])
    }

    /// Hands on what is gathered.
    pub fn flush(&mut self) -> Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let written = match &mut self.behind {
            Some(behind) => {
                let mut full = std::mem::take(&mut self.buffer);
                full.truncate(self.filled);
                behind.put(self.start, full).map(|next| self.buffer = next)
            }
            None => self.file.write_all_at(&self.buffer[..self.filled], self.start),
        };
        self.filled = 0;
        written.map_err(|error| Error::io("cannot write the image", &error))
    }

    /// Writes all that was gathered.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let finished = self.behind.as_mut().map_or(Ok(()), Behind::finish);
        finished.map_err(|error| Error::io("cannot write the image", &error))
    }
}
