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
    /// Whether bytes can be read without waiting for them.
    pub(super) ready: Option<fn(&mut R) -> bool>,
    /// What reading ahead failed with, until its turn comes.
    failed: Option<Error>,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Input { inner, buffer: Vec::new(), start: 0, end: 0, taken: 0, ready: None, failed: None }
    }

    /// What is at hand, read anew when there is nothing; empty at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.buffer.resize(SIZE, 0);
            (self.start, self.end) = (0, 0);
            self.end = self.read()?;
        }
        Ok(self.at_hand())
    }

    /// At least `count` bytes, less only at the end.
    pub(super) fn at_least(&mut self, count: usize) -> Result<&[u8]> {
        if self.end - self.start < count {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            // What was read ahead is used up.
            self.buffer.resize(SIZE, 0);
            while self.end < count {
                let read = self.read()?;
                if read == 0 {
                    break;
                }
                self.end += read;
            }
        }
        Ok(self.at_hand())
    }

    /// At least `count` bytes if they come without waiting, else what is there.
    pub(super) fn ahead(&mut self, count: usize) -> &[u8] {
        while self.end - self.start < count
            && self.failed.is_none()
            && let Some(ready) = self.ready
            && ready(&mut self.inner)
        {
            if self.buffer.len() - self.end < SIZE {
                // Moved only when at least as much goes, so that no byte is moved twice for nothing.
                if self.start >= SIZE.max(self.end - self.start) {
                    self.buffer.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                }
                self.buffer.resize(self.buffer.len().max(self.end + SIZE), 0);
            }
            match self.read() {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) => self.failed = Some(error),
            }
        }
        self.at_hand()
    }

    fn at_hand(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
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

    /// Reads behind what is at hand.
    fn read(&mut self) -> Result<usize> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => read(&mut self.inner, &mut self.buffer[self.end..]),
        }
    }
}

impl Input<io::Empty> {
    /// All of the input that there is, after byte number `taken` of the stream.
    pub(super) fn of(bytes: Vec<u8>, taken: u64) -> Self {
        Input { end: bytes.len(), buffer: bytes, taken, ..Input::new(io::empty()) }
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
