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

/// A header block in the making: ustar, mode 0644, owner 0:0, time 0, no data.
pub struct Header([u8; 512]);

impl Header {
    pub fn new(name: &[u8], flag: u8) -> Self {
        let header = Header([0; 512]).put(0, name).put(156, &[flag]).put(257, b"ustar\x0000");
        let header = header.put(100, b"0000644\0").put(108, b"0000000\0").put(116, b"0000000\0");
        header.put(136, b"00000000000\0").size(0)
    }

    /// With GNU's magic.
    pub fn gnu(name: &[u8], flag: u8) -> Self {
        Header::new(name, flag).put(257, b"ustar  \0")
    }

    /// Without a magic.
    pub fn v7(name: &[u8], flag: u8) -> Self {
        Header::new(name, flag).put(257, &[0; 8])
    }

    /// Overwrites bytes.
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn link(self, target: &[u8]) -> Self {
        self.put(157, target)
    }

    pub fn size(self, size: u64) -> Self {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    /// The block, with the sum of its bytes (signed ones, as some old writers had it, where `signed`).
    pub fn sum(mut self, signed: bool) -> Vec<u8> {
        self.0[148..156].fill(b' ');
        let sum: i64 = self.0.iter().map(|&byte| if signed { i64::from(byte as i8) } else { i64::from(byte) }).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec()
    }

    pub fn block(self) -> Vec<u8> {
        self.sum(false)
    }

    /// The block and its data, the header's size set to theirs.
    pub fn with(self, data: &[u8]) -> Vec<u8> {
        [self.size(data.len() as u64).block(), padded(data)].concat()
    }
}

/// Data with the zeros after them.
pub fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// `LENGTH KEY=VALUE\n`.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| rest + length.to_string().len() == *length).expect("there is one");
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A pax header (`x` or `g`) of these records.
pub fn pax(flag: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
    Header::new(b"PaxHeader", flag).with(&body)
}

/// A GNU long name (`L`, `K`), with the NUL that ends it.
pub fn long(flag: u8, name: &[u8]) -> Vec<u8> {
    Header::gnu(b"././@LongLink", flag).with(&[name, b"\0"].concat())
}

/// The blocks that end an archive.
pub const END: [u8; 1024] = [0; 1024];
