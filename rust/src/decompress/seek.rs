//! A gzip blob inflated from a restart point on, and held to those that come behind it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::gzip::Gzip;
use super::input::Input;
use super::restart::{Restart, damaged, unpack};
use crate::error::Result;

/// Bytes that are read when nobody wants them.
const CHUNK: usize = 64 << 10;

/// Part of a file as a stream.
pub struct BlobSection {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl BlobSection {
    /// The bytes from `start` to `end`.
    pub fn new(file: Arc<File>, start: u64, end: u64) -> Self {
        BlobSection { file, at: start, end }
    }
}

impl Read for BlobSection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.end.saturating_sub(self.at)).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What a blob gives from some byte on.
///
/// At every restart point that it comes to, the place, the bytes given so far and the window must be those of the point;
/// else reading fails.
pub struct Seek {
    input: Input<BlobSection>,
    gzip: Gzip,
    restart: Arc<Restart>,
    next: usize,
    /// Bytes that the blob has given before.
    given: u64,
    ended: bool,
}

impl Seek {
    /// Begins at the last restart point before byte `given` of what the blob gives, or at the blob's beginning. The blob
    /// stands in `file` from `start` to `end`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(restart: &Arc<Restart>, file: &Arc<File>, (start, end): (u64, u64), given: u64) -> Result<Self> {
        let restart = Arc::clone(restart);
        let next = restart.given_before(given);
        let mut gzip = Gzip::new();
        let (mut taken, mut given) = (0, 0);
        if let Some(number) = next.checked_sub(1)
            && let Some(point) = restart.point(number)
        {
            let window = restart.window(point).and_then(|packed| unpack(&packed));
            let window = window.ok_or_else(|| damaged("a window is none"))?;
            gzip.begin_at(point.place, point.bits, &window);
            (taken, given) = (point.place.taken, point.given);
        }
        let mut input = Input::new(BlobSection::new(Arc::clone(file), start + taken, end));
        input.taken = taken;
        Ok(Seek { input, gzip, restart, next, given, ended: false })
    }

    /// The byte that comes next, of all that the blob gives.
    pub fn position(&self) -> u64 {
        self.given
    }

    /// Reads on to the next restart point, or the end, so that what was read before it is held to that.
    ///
    /// # Errors
    /// As reading.
    pub fn settle(&mut self) -> Result<()> {
        let (next, mut chunk) = (self.next, vec![0; CHUNK]);
        while self.next == next && self.fill(&mut chunk)? > 0 {}
        Ok(())
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        while !self.ended {
            let point = self.restart.point(self.next);
            self.gzip.stop = point.map(|point| point.place);
            if let Some(point) = point {
                if self.gzip.place(self.input.taken) == Some(point.place) {
                    let window = if point.place.body { self.restart.window(point) } else { Some(Vec::new()) };
                    let window = window.and_then(|packed| unpack(&packed));
                    let is_same = match window {
                        Some(window) => !point.place.body || window == self.gzip.window(),
                        None => false,
                    };
                    if !is_same || point.given != self.given {
                        return Err(damaged("they are of another stream"));
                    }
                    self.next += 1;
                    continue;
                }
                if self.input.taken > point.place.taken {
                    return Err(damaged("they are of another stream"));
                }
            }
            match self.gzip.read(&mut self.input, out)? {
                Some(0) => {}
                Some(count) => {
                    self.given += count as u64;
                    return Ok(count);
                }
                None => {
                    self.ended = true;
                    if self.next < self.restart.len() || self.given != self.restart.given() {
                        return Err(damaged("they are of another stream"));
                    }
                }
            }
        }
        Ok(0)
    }
}

/// The core's error is inside the `io::Error`.
impl Read for Seek {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() { Ok(0) } else { self.fill(out).map_err(io::Error::other) }
    }
}
