//! What the tests of the tar reader share. Each test program uses a part of it.
#![allow(dead_code)]

use std::io::{self, BufRead, Read};

use ocifast_core::entry::Entry;
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::tar::{Data, Reader};

/// A reader that gives its bytes in pieces of the given lengths, over and over, now and then interrupted.
pub struct Short<'a> {
    bytes: &'a [u8],
    pieces: Vec<usize>,
    turn: usize,
    /// What is left of the piece at hand.
    left: usize,
    interrupted: bool,
}

impl<'a> Short<'a> {
    /// `pieces` must not be empty and holds no 0.
    pub fn new(bytes: &'a [u8], pieces: &[usize]) -> Self {
        Short { bytes, pieces: pieces.to_vec(), turn: 0, left: 0, interrupted: false }
    }
}

impl Read for Short<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Short<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.left = self.pieces[self.turn % self.pieces.len()];
            self.turn += 1;
        }
        Ok(&self.bytes[..self.left.min(self.bytes.len())])
    }

    fn consume(&mut self, count: usize) {
        assert!(count <= self.left, "more was consumed than lent");
        self.left -= count;
        self.bytes = &self.bytes[count..];
    }
}

/// Every entry with its data, holes as zeros.
pub fn read_all(archive: impl BufRead, limits: &Limits) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(archive, limits.clone());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        while let Some(piece) = reader.next_data()? {
            match piece {
                Data::Bytes(bytes) => data.extend_from_slice(bytes),
                Data::Hole(length) => data.resize(data.len() + length as usize, 0),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}
