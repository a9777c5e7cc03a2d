//! Ends of files that are no whole block: they wait in a spool until it is known where they go.

use crate::error::Result;
use crate::spool::Spool;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// The ends of one layer's files.
#[derive(Default)]
pub(super) struct Tails {
    /// From the first bytes that are written on.
    spool: Option<Spool>,
    pending: Vec<u8>,
    written: u64,
}

impl Tails {
    /// Takes an end, and zeros up to a multiple of `unit` bytes. Before anything is written `spool` is asked where to.
    /// Returns where the end begins.
    ///
    /// # Errors
    /// `io_error`.
    pub fn add(&mut self, tail: &[u8], unit: usize, spool: impl FnOnce() -> Result<Spool>) -> Result<u64> {
        let offset = self.written + self.pending.len() as u64;
        self.pending.extend_from_slice(tail);
        self.pending.resize(self.pending.len().next_multiple_of(unit), 0);
        if self.pending.len() >= BUFFER {
            self.flush(spool)?;
        }
        Ok(offset)
    }

    fn flush(&mut self, spool: impl FnOnce() -> Result<Spool>) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let to = match &mut self.spool {
            Some(to) => to,
            None => self.spool.insert(spool()?),
        };
        to.write(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes what is left. Returns the spool, if anything was written.
    ///
    /// # Errors
    /// `io_error`.
    pub fn finish(&mut self, spool: impl FnOnce() -> Result<Spool>) -> Result<Option<Spool>> {
        self.flush(spool)?;
        self.pending = Vec::new();
        Ok(self.spool.take())
    }
}
