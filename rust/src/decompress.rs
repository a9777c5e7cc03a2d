//! Decompression by content. A media type may lie or be unknown; the first bytes do not.
//!
//! gzip is RFC 1952 with any number of members; zstd is RFC 8878 with any number of frames, skippable ones too; a tar
//! archive is handed on as it is. The image-spec knows no other (layer.md, "Media types").

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::tar;

/// Bytes of compressed input read at once.
const INPUT: usize = 128 << 10;
/// Output below which the ratio is not looked at: zeros compress well.
const RATIO_FROM: u64 = 64 << 20;

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: a tar archive.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Reads a layer's blob and gives the tar archive in it, straight into the caller's buffers.
///
/// ```
/// use ocifast_core::{decompress::Decompressor, limits::Limits};
///
/// let archive = [0; 1024];
/// let mut layer = Decompressor::new(&archive[..], &Limits::default());
/// let mut chunk = [1; 4096];
/// assert_eq!(layer.read_chunk(&mut chunk)?, 1024);
/// assert_eq!(layer.read_chunk(&mut chunk)?, 0);
/// # Ok::<(), ocifast_core::error::Error>(())
/// ```
pub struct Decompressor<R> {
    input: Input<R>,
    codec: Codec,
    written: u64,
    layer_bytes: u64,
    ratio: u64,
    window_log: u32,
}

enum Codec {
    Unknown,
    Plain,
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
    Ended,
    Failed,
}

impl<R: Read> Decompressor<R> {
    /// A decompressor of the blob that `reader` is at the start of. Nothing is read yet.
    pub fn new(reader: R, limits: &Limits) -> Self {
        Decompressor {
            input: Input { inner: reader, buffer: Vec::new(), start: 0, end: 0, taken: 0, compression: None },
            codec: Codec::Unknown,
            written: 0,
            layer_bytes: limits.layer_bytes,
            ratio: limits.ratio,
            window_log: limits.zstd_window_log,
        }
    }

    /// Fills `out` with the next decompressed bytes. Less than `out.len()` bytes are written only at the end; 0 is
    /// the end, reached only after every checksum was right and no byte was left over.
    ///
    /// # Errors
    /// `compression_invalid` for bytes that are neither gzip, zstd nor tar, and for a stream that is damaged, ends
    /// early or goes on after its end; `limit_exceeded` for more bytes than `Limits::layer_bytes`, for a ratio over
    /// `Limits::ratio` and for a zstd window over `Limits::zstd_window_log`; whatever the reader fails with. Nothing
    /// can be read after an error.
    pub fn read_chunk(&mut self, out: &mut [u8]) -> Result<usize> {
        let result = self.fill(out);
        if result.is_err() {
            self.codec = Codec::Failed;
        }
        result
    }

    /// How the blob is compressed; `None` before the first byte was read.
    pub fn compression(&self) -> Option<Compression> {
        self.input.compression
    }

    /// Compressed bytes that went into what was written so far.
    pub fn bytes_in(&self) -> u64 {
        self.input.taken
    }

    /// Decompressed bytes written so far.
    pub fn bytes_out(&self) -> u64 {
        self.written
    }

    /// The reader; it is at its end when [`read_chunk`](Self::read_chunk) has returned 0.
    pub fn into_inner(self) -> R {
        self.input.inner
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        if matches!(self.codec, Codec::Unknown) {
            self.codec = sniff(&mut self.input, self.window_log)?;
        }
        let mut filled = 0;
        while filled < out.len() {
            let room = &mut out[filled..];
            let step = match &mut self.codec {
                Codec::Plain => plain(&mut self.input, room)?,
                Codec::Gzip(gzip) => gzip.read(&mut self.input, room)?,
                Codec::Zstd(zstd) => zstd.read(&mut self.input, room)?,
                Codec::Ended => None,
                Codec::Unknown | Codec::Failed => return Err(invalid("the layer was found damaged before this byte")),
            };
            let Some(step) = step else {
                self.codec = Codec::Ended;
                break;
            };
            filled += step;
            self.written += step as u64;
            self.check_limits()?;
        }
        Ok(filled)
    }

    fn check_limits(&self) -> Result<()> {
        if self.written > self.layer_bytes {
            let message = format!("the layer decompresses to more than {} bytes", self.layer_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        if self.written > RATIO_FROM && self.written / self.ratio.max(1) > self.input.taken {
            let (written, taken) = (self.written, self.input.taken);
            let message = format!("{taken} bytes decompress to {written}, more than {} times as many", self.ratio);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::CompressionInvalid, message)
}

/// Looks at the first bytes. An empty blob is an empty archive.
fn sniff<R: Read>(input: &mut Input<R>, window_log: u32) -> Result<Codec> {
    let start = input.at_least(512)?;
    let (compression, codec) = match start {
        [0x1f, 0x8b, ..] => (Compression::Gzip, Codec::Gzip(Box::new(Gzip::new()))),
        _ if zstd_magic(start) => (Compression::Zstd, Codec::Zstd(Box::new(Zstd::new(window_log)?))),
        _ if start.is_empty() || tar::looks_like_tar(start) => (Compression::None, Codec::Plain),
        _ => return Err(unknown(start)),
    };
    input.compression = Some(compression);
    Ok(codec)
}

/// The magic of a frame or of a skippable frame (RFC 8878, 3.1).
fn zstd_magic(bytes: &[u8]) -> bool {
    matches!(bytes, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn unknown(start: &[u8]) -> Error {
    const KNOWN: [(&[u8], &str); 9] = [
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x5d\0\0", "lzma"),
        (b"LZIP", "lzip"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x1f\x9d", "compress"),
        (b"PK\x03\x04", "zip"),
        (b"\x89LZO", "lzop"),
    ];
    let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.join(" ");
    invalid(match KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, name)) => {
            format!("the layer is compressed with {name} (first bytes {hex}); only gzip and zstd are allowed")
        }
        None => format!("the layer is neither gzip, zstd nor a tar archive: its first bytes are {hex}"),
    })
}

/// The compressed bytes, read in large pieces.
struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    taken: u64,
    compression: Option<Compression>,
}

impl<R: Read> Input<R> {
    /// What is at hand, read anew when there is nothing; empty at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.buffer.resize(INPUT, 0);
            (self.start, self.end) = (0, read(&mut self.inner, &mut self.buffer)?);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// At least `count` bytes, less only at the end.
    fn at_least(&mut self, count: usize) -> Result<&[u8]> {
        self.buffer.resize(INPUT, 0);
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

    fn take(&mut self, count: usize) {
        self.start += count;
        self.taken += count as u64;
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

fn plain<R: Read>(input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
    let buffered = input.end - input.start;
    let count = if buffered > 0 {
        let count = buffered.min(out.len());
        out[..count].copy_from_slice(&input.buffer[input.start..input.start + count]);
        input.take(count);
        count
    } else {
        let count = read(&mut input.inner, out)?;
        input.taken += count as u64;
        count
    };
    Ok((count > 0).then_some(count))
}

/// One gzip member after another.
struct Gzip {
    inflate: Decompress,
    crc: flate2::Crc,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Body,
    /// Between members: the end, another member, or zeros to the end.
    Between,
}

impl Gzip {
    fn new() -> Self {
        Gzip { inflate: Decompress::new(false), crc: flate2::Crc::new(), part: Part::Header }
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.part {
                Part::Header => {
                    header(input)?;
                    self.inflate.reset(false);
                    self.crc.reset();
                    self.part = Part::Body;
                }
                Part::Body => {
                    let produced = self.body(input, out)?;
                    if produced > 0 {
                        return Ok(Some(produced));
                    }
                }
                Part::Between => match input.at_least(2)? {
                    [] => return Ok(None),
                    [0x1f, 0x8b, ..] => self.part = Part::Header,
                    // Tapes were padded with zeros; gzip lets them be.
                    [0, ..] => return zeros(input).map(|()| None),
                    other => return Err(garbage("gzip", other)),
                },
            }
        }
    }

    /// Inflates straight into `out`; at the end of the member compares its trailer.
    fn body<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        let mut produced = 0;
        loop {
            let compressed = input.fill()?;
            if compressed.is_empty() {
                return Err(invalid("the gzip stream ends early"));
            }
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(compressed, &mut out[produced..], FlushDecompress::None);
            let status = status.map_err(|error| invalid(format!("the gzip stream is damaged: {error}")))?;
            let taken = (self.inflate.total_in() - before_in) as usize;
            let step = (self.inflate.total_out() - before_out) as usize;
            self.crc.update(&out[produced..produced + step]);
            produced += step;
            input.take(taken);
            if status == Status::StreamEnd {
                self.trailer(input)?;
                self.part = Part::Between;
                return Ok(produced);
            }
            if produced == out.len() {
                return Ok(produced);
            }
            if taken == 0 && step == 0 {
                return Err(invalid("the gzip stream is damaged"));
            }
        }
    }

    fn trailer<R: Read>(&self, input: &mut Input<R>) -> Result<()> {
        let Some(&[a, b, c, d, e, f, g, h]) = input.at_least(8)?.first_chunk::<8>() else {
            return Err(invalid("the gzip stream ends inside a trailer"));
        };
        input.take(8);
        let (crc, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if crc != self.crc.sum() {
            return Err(Error::mismatch(
                Code::CompressionInvalid,
                "the gzip stream's CRC-32",
                format!("{crc:08x}"),
                format!("{:08x}", self.crc.sum()),
            ));
        }
        // The size is taken modulo 2^32 on both sides.
        if size != self.crc.amount() {
            return Err(Error::mismatch(Code::CompressionInvalid, "the gzip stream's size", size, self.crc.amount()));
        }
        Ok(())
    }
}

/// Reads a member's header (RFC 1952, 2.3).
fn header<R: Read>(input: &mut Input<R>) -> Result<()> {
    let mut crc = flate2::Crc::new();
    let mut byte = || -> Result<u8> {
        let Some(&byte) = input.fill()?.first() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(1);
        crc.update(&[byte]);
        Ok(byte)
    };
    let mut fixed = [0; 10];
    for slot in &mut fixed {
        *slot = byte()?;
    }
    let [_, _, method, flags, ..] = fixed;
    if method != 8 {
        return Err(invalid(format!("the gzip stream has the unknown method {method}")));
    }
    if flags & 0xe0 != 0 {
        return Err(invalid(format!("the gzip stream has reserved flags: {flags:#04x}")));
    }
    if flags & 4 != 0 {
        let length = u16::from_le_bytes([byte()?, byte()?]);
        for _ in 0..length {
            byte()?;
        }
    }
    // Name and comment, each ended by a NUL.
    for flag in [8, 16] {
        while flags & flag != 0 && byte()? != 0 {}
    }
    if flags & 2 != 0 {
        let [low, high, ..] = crc.sum().to_le_bytes();
        let seen = [low, high];
        let Some(&written) = input.at_least(2)?.first_chunk::<2>() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(2);
        if written != seen {
            return Err(invalid("the gzip header's checksum is wrong"));
        }
    }
    Ok(())
}

fn zeros<R: Read>(input: &mut Input<R>) -> Result<()> {
    loop {
        let bytes = input.fill()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            return Err(garbage("gzip", &bytes[at..]));
        }
        let count = bytes.len();
        input.take(count);
    }
}

fn garbage(what: &str, bytes: &[u8]) -> Error {
    let hex: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    invalid(format!("the {what} stream is followed by something else: {}", hex.join(" ")))
}

/// One zstd frame after another.
struct Zstd {
    decoder: Decoder<'static>,
    /// Inside a frame, or with output held back.
    open: bool,
    window_log: u32,
}

impl Zstd {
    fn new(window_log: u32) -> Result<Self> {
        let set_up = |error: io::Error| Error::io("setting up the zstd decompressor", &error);
        let mut decoder = Decoder::new().map_err(set_up)?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log)).map_err(set_up)?;
        Ok(Zstd { decoder, open: false, window_log })
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            if !self.open {
                match input.at_least(4)? {
                    [] => return Ok(None),
                    start if zstd_magic(start) => self.open = true,
                    other => return Err(garbage("zstd", other)),
                }
            }
            let compressed = input.fill()?;
            let ended = compressed.is_empty();
            let (mut from, mut to) = (InBuffer::around(compressed), OutBuffer::around(&mut *out));
            let hint = self.decoder.run(&mut from, &mut to).map_err(|error| damaged(&error, self.window_log))?;
            let (taken, produced) = (from.pos(), to.pos());
            input.take(taken);
            self.open = hint != 0;
            if produced > 0 {
                return Ok(Some(produced));
            }
            if ended && self.open {
                return Err(invalid("the zstd stream ends early"));
            }
        }
    }
}

fn damaged(error: &io::Error, window_log: u32) -> Error {
    let text = error.to_string();
    if text.contains("too much memory") {
        let message = format!("the zstd stream needs a window of more than 2^{window_log} bytes");
        return Error::new(Code::LimitExceeded, message);
    }
    invalid(format!("the zstd stream is damaged: {text}"))
}
