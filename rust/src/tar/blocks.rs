//! The archive as blocks of 512 bytes, from an input that gives its bytes in pieces of any length.

use std::io::{self, BufRead};

use super::header::BLOCK;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// The input, and how far it has been read.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    inner: R,
    position: u64,
    /// Bytes of `inner`'s buffer lent to the caller; taken when it comes back.
    lent: usize,
    block: Box<[u8; BLOCK]>,
}

impl<R: BufRead> Blocks<R> {
    pub(super) fn new(inner: R) -> Self {
        Blocks { inner, position: 0, lent: 0, block: Box::new([0; BLOCK]) }
    }

    /// Bytes taken so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The input, at the first byte that was not taken.
    pub(super) fn into_inner(mut self) -> R {
        self.settle();
        self.inner
    }

    /// The next block, copied out; `None` where the input ends before it.
    ///
    /// # Errors
    /// `tar_invalid` when the input ends inside it.
    pub(super) fn next(&mut self) -> Result<Option<&[u8; BLOCK]>> {
        self.settle();
        let mut filled = 0;
        while filled < BLOCK {
            if self.available()? == 0 {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(truncated());
            }
            let buffer = self.inner.fill_buf().map_err(input_error)?;
            let step = buffer.len().min(BLOCK - filled);
            self.block[filled..filled + step].copy_from_slice(&buffer[..step]);
            self.take(step);
            filled += step;
        }
        Ok(Some(&self.block))
    }

    /// The next block, which has to be there.
    pub(super) fn expect(&mut self) -> Result<&[u8; BLOCK]> {
        self.next()?.ok_or_else(truncated)
    }

    /// Lends up to `most` bytes, which is not 0. They count as taken with the next call of any kind.
    pub(super) fn lend(&mut self, most: u64) -> Result<&[u8]> {
        self.settle();
        let available = self.available()?;
        if available == 0 {
            return Err(truncated());
        }
        self.lent = usize::try_from(most).map_or(available, |most| most.min(available));
        let buffer = self.inner.fill_buf().map_err(input_error)?;
        Ok(&buffer[..self.lent])
    }

    /// Takes `count` bytes unseen.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            count -= self.lend(count)?.len() as u64;
        }
        self.settle();
        Ok(())
    }

    /// The data of an extension header, with their padding to whole blocks. Memory grows with what arrives, not with
    /// what a header claims.
    ///
    /// # Errors
    /// `limit_exceeded` for more than the limit; `tar_invalid` when the input ends early.
    pub(super) fn extension(&mut self, size: u64, limits: &Limits) -> Result<Vec<u8>> {
        if size > limits.extension_bytes as u64 {
            let message = format!("an extension header of {size} bytes is longer than {}", limits.extension_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let whole = size + padding(size);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < whole {
            let left = whole - bytes.len() as u64;
            bytes.extend_from_slice(self.lend(left)?);
        }
        Ok(bytes)
    }

    fn settle(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        self.take(lent);
    }

    fn take(&mut self, count: usize) {
        self.inner.consume(count);
        self.position += count as u64;
    }

    /// Bytes at hand in the input's buffer, 0 at its end.
    fn available(&mut self) -> Result<usize> {
        loop {
            match self.inner.fill_buf() {
                Ok(buffer) => return Ok(buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(input_error(error)),
            }
        }
    }
}

/// Bytes from the end of `size` bytes of data to the end of their last block.
pub(super) fn padding(size: u64) -> u64 {
    // Of sizes near 2^64 there are none: they are signed.
    size.next_multiple_of(BLOCK as u64) - size
}

fn truncated() -> Error {
    Error::new(Code::TarInvalid, "the archive ends early")
}

/// An input that is itself of this crate fails with our own error inside the system's.
fn input_error(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("reading the archive", &error))
}
