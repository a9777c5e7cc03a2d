//! The compressed bytes, read in large pieces and looked at without a copy.

use std::io::{self, Read};

use crate::error::{Code, Error, Result};

/// Bytes of compressed input read at once.
const SIZE: usize = 128 << 10;

/// A reader with a buffer that can be looked into.
pub(super) struct Input<R> {
    pub(super) inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes handed on.
    pub(super) taken: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Input { inner, buffer: Vec::new(), start: 0, end: 0, taken: 0 }
    }

    /// What is at hand, read anew when there is nothing; empty at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.buffer.resize(SIZE, 0);
            (self.start, self.end) = (0, read(&mut self.inner, &mut self.buffer)?);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// At least `count` bytes, less only at the end.
    pub(super) fn at_least(&mut self, count: usize) -> Result<&[u8]> {
        self.buffer.resize(SIZE, 0);
        if self.end - self.start < count {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < count {
                let read = read(&mut self.inner, &mut self.buffer[self.end..])?;
                if read == 0 {
                    break;
                }
                self.end += read;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
        self.taken += count as u64;
    }

    /// Copies the next bytes as they are; `None` at the end.
    pub(super) fn copy(&mut self, out: &mut [u8]) -> Result<Option<usize>> {
        let buffered = self.end - self.start;
        let count = if buffered > 0 {
            let count = buffered.min(out.len());
            out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
            count
        } else {
            read(&mut self.inner, out)?
        };
        self.taken += count as u64;
        Ok((count > 0).then_some(count))
    }
}

/// `Read::read`, begun again after a signal.
fn read(inner: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match inner.read(buffer) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error.downcast::<Error>().unwrap_or_else(|error| Error::io("reading the layer", &error)));
            }
        }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::CompressionInvalid, message)
}

/// The error for bytes after the end of a stream.
pub(super) fn garbage(what: &str, bytes: &[u8]) -> Error {
    let hex: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    invalid(format!("the {what} stream is followed by something else: {}", hex.join(" ")))
}
