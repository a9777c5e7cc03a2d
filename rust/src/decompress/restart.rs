//! Restart points of a gzip stream: places from which it can be inflated, noted while it is inflated once.
//!
//! A point is a member's header, or a block's with what the member gave before it as far as distances reach. What is
//! noted is a file of its own: the windows, compressed, then a row for each point, then what the file is about and its
//! checksum. Nothing in it is believed: a part that was inflated from a point is taken only where the stream, read in
//! order, has come to that very place, with that very window. Only who reads a single file believes the window that it
//! begins with, which has the file's checksum.

use std::fs::File;
use std::os::unix::fs::FileExt;

use zstd::bulk;

use super::inflate::WINDOW;
use super::place::StreamPlace;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Code, Error, Result};

/// Output between two points, in bytes; the next header after it is one. A part must fit into what is inflated ahead.
pub(super) const SPACING: u64 = 7 << 19;
/// Most points of one file: of 3 TiB of output, more than a layer may have.
const POINTS: usize = 1 << 20;
/// How windows are compressed.
const LEVEL: i32 = 1;

const MAGIC: [u8; 8] = *b"restart\0";
/// What a program must know to read the file. Counts every change of it.
const VERSION: u32 = 1;
/// Bytes of a row, and of what stands behind them before the digest's text.
const ROW: usize = 40;
const FACTS: usize = 40;
/// Bytes of the checksum, SHA-256 over all before it.
const CHECKSUM: usize = 32;
/// Bytes of a digest's text at most.
const DIGEST_MAX: usize = 256;

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) place: StreamPlace,
    /// Of a byte that it is inside of, what is left.
    pub(super) bits: u8,
    /// Bytes that the stream has given before.
    pub(super) given: u64,
    /// Where the compressed window stands in the file, and how long it is; 0 bytes for none.
    window: (u64, u32),
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("cannot write restart points", error)
}

pub(super) fn damaged(what: &str) -> Error {
    Error::new(Code::Io, format!("the restart points are damaged: {what}"))
}

/// Notes the points of a stream while it is inflated. What fails is never the stream's failure: there is no file then.
pub struct Recorder {
    file: Option<File>,
    compressor: Option<bulk::Compressor<'static>>,
    written: u64,
    given: u64,
    last: u64,
    points: Vec<Point>,
}

impl Recorder {
    /// Writes to an empty file that is open for reading as well.
    pub fn new(file: File) -> Self {
        let compressor = bulk::Compressor::new(LEVEL).ok();
        Recorder { file: Some(file), compressor, written: 0, given: 0, last: 0, points: Vec::new() }
    }

    /// Counts bytes that the stream has given.
    pub(super) fn count(&mut self, bytes: usize) {
        self.given += bytes as u64;
    }

    /// Whether the next header is a point.
    pub(super) fn is_due(&self) -> bool {
        self.given - self.last >= SPACING && self.file.is_some()
    }

    /// Notes a point.
    pub(super) fn add(&mut self, place: StreamPlace, bits: u8, window: &[u8]) {
        self.last = self.given;
        let Some(file) = &self.file else { return };
        let packed = match &mut self.compressor {
            Some(_) if window.is_empty() => Some(Vec::new()),
            Some(compressor) => compressor.compress(window).ok(),
            None => None,
        };
        match packed {
            Some(packed) if self.points.len() < POINTS && file.write_all_at(&packed, self.written).is_ok() => {
                let window = (self.written, packed.len() as u32);
                self.written += u64::from(window.1);
                self.points.push(Point { place, bits, given: self.given, window });
            }
            _ => self.file = None,
        }
    }

    /// Makes the file complete, once the blob and what came of it were verified. False when there is nothing in it worth
    /// keeping: less than two points, between which there would be a part, or it could not be written.
    ///
    /// # Errors
    /// `io_error`.
    pub fn finish(self, blob: &Digest, size: u64) -> Result<bool> {
        let Some(file) = self.file.filter(|_| self.points.len() > 1) else {
            return Ok(false);
        };
        let mut rest = Vec::with_capacity(self.points.len() * ROW + FACTS + DIGEST_MAX);
        for point in &self.points {
            let Point { place: StreamPlace { taken, count, body }, bits, given, window: (at, length) } = *point;
            for number in [taken, given, at] {
                rest.extend_from_slice(&number.to_le_bytes());
            }
            rest.extend_from_slice(&length.to_le_bytes());
            rest.extend_from_slice(&[count as u8, u8::from(body), bits]);
            rest.resize(rest.len() + ROW - 31, 0);
        }
        rest.extend_from_slice(blob.as_str().as_bytes());
        rest.extend_from_slice(&MAGIC);
        for number in [VERSION, blob.as_str().len() as u32] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.points.len() as u64, self.given, size] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        file.write_all_at(&rest, self.written).map_err(|error| failed(&error))?;
        let length = self.written + rest.len() as u64;
        let sum = checksum(&file, length)?;
        file.write_all_at(&sum, length).map_err(|error| failed(&error))?;
        Ok(true)
    }
}

/// The checksum of the first bytes of a file.
fn checksum(file: &File, length: u64) -> Result<[u8; CHECKSUM]> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    while at < length {
        let part = &mut buffer[..(length - at).min(1 << 18) as usize];
        file.read_exact_at(part, at).map_err(|error| Error::io("cannot read restart points", &error))?;
        hasher.update(part);
        at += part.len() as u64;
    }
    Ok(hasher.finish_bytes())
}

/// The restart points of a blob.
pub struct Restart {
    file: File,
    points: Vec<Point>,
    given: u64,
}

impl Restart {
    /// Opens what was noted of a blob.
    ///
    /// # Errors
    /// `io_error` for what is no such file, is of another version or another blob, or is damaged.
    pub fn open(file: File, blob: &Digest, size: u64) -> Result<Self> {
        let length = file.metadata().map_err(|error| Error::io("cannot read restart points", &error))?.len();
        let end = length.checked_sub(CHECKSUM as u64).filter(|end| *end >= FACTS as u64);
        let end = end.ok_or_else(|| damaged("they are too short"))?;
        let read = |at: u64, buffer: &mut [u8]| {
            file.read_exact_at(buffer, at).map_err(|error| Error::io("cannot read restart points", &error))
        };
        let mut facts = [0; FACTS];
        read(end - FACTS as u64, &mut facts)?;
        let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        if facts[..8] != MAGIC || u32_at(&facts, 8) != VERSION {
            return Err(damaged("they are of another version"));
        }
        let (name, count) = (u32_at(&facts, 12) as usize, u64_at(&facts, 16));
        let (given, stated) = (u64_at(&facts, 24), u64_at(&facts, 32));
        if name > DIGEST_MAX || count > POINTS as u64 {
            return Err(damaged("their number is impossible"));
        }
        let rows = count as usize * ROW;
        let windows = end.checked_sub((FACTS + name + rows) as u64).ok_or_else(|| damaged("they are too short"))?;
        let mut sum = [0; CHECKSUM];
        read(end, &mut sum)?;
        if checksum(&file, end)? != sum {
            return Err(damaged("their checksum is wrong"));
        }
        let mut rest = vec![0; rows + name];
        read(windows, &mut rest)?;
        let (rows, name) = rest.split_at(rows);
        if name != blob.as_str().as_bytes() || stated != size {
            return Err(damaged("they are of another blob"));
        }
        let points: Vec<Point> = rows
            .chunks_exact(ROW)
            .map(|row| {
                let place = StreamPlace { taken: u64_at(row, 0), count: row[28].into(), body: row[29] == 1 };
                Point { place, bits: row[30], given: u64_at(row, 8), window: (u64_at(row, 16), u32_at(row, 24)) }
            })
            .collect();
        // Windows stand one after the other, and nothing else does: no bit of the file means nothing.
        let mut ends = 0;
        let mut is_sound = |point: &Point| {
            let Point { place, bits, given: at, window: (from, length) } = *point;
            let (most, begins) = (zstd::zstd_safe::compress_bound(WINDOW) as u64, ends);
            ends += u64::from(length);
            place.taken <= size
                && place.count < 8
                && (place.body || place.count == 0)
                && bits >> place.count == 0
                && at <= given
                && u64::from(length) <= most
                && from == begins
        };
        let is_exact = rows.chunks_exact(ROW).all(|row| row[29] < 2 && row[31..].iter().all(|&byte| byte == 0));
        let ascend =
            points.windows(2).all(|pair| pair[0].place.taken < pair[1].place.taken && pair[0].given < pair[1].given);
        if !is_exact || !ascend || !points.iter().all(&mut is_sound) || ends != windows {
            return Err(damaged("a point is impossible"));
        }
        Ok(Restart { file, points, given })
    }

    /// The first point behind a byte of the blob, by its number.
    pub(super) fn after(&self, taken: u64) -> usize {
        self.points.partition_point(|point| point.place.taken <= taken)
    }

    /// How many of the points stand before byte `given` of what the blob gives, or there.
    pub(super) fn given_before(&self, given: u64) -> usize {
        self.points.partition_point(|point| point.given <= given)
    }

    /// How many points there are.
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// Bytes that the blob gives.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// A point.
    pub(super) fn point(&self, number: usize) -> Option<&Point> {
        self.points.get(number)
    }

    /// The window of a point, compressed; see [`unpack`].
    pub(super) fn window(&self, point: &Point) -> Option<Vec<u8>> {
        let (at, length) = point.window;
        let mut packed = vec![0; length as usize];
        self.file.read_exact_at(&mut packed, at).ok()?;
        Some(packed)
    }
}

/// What [`Restart::window`] has compressed; `None` for what is no window.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    if packed.is_empty() { Some(Vec::new()) } else { bulk::decompress(packed, WINDOW).ok() }
}
