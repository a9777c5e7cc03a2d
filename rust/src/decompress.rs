//! Decompression by content. A media type may lie or be unknown; the first bytes do not.
//!
//! gzip is RFC 1952 with any number of members; zstd is RFC 8878 with any number of frames, skippable ones too; a tar
//! archive is handed on as it is. The image-spec knows no other (layer.md, "Media types").

mod ahead;
mod bits;
mod gzip;
mod huffman;
mod inflate;
mod inflated;
mod input;
mod members;
mod part;
mod place;
mod restart;
mod room;
mod seek;
mod tables;
mod zstd;

use std::io::{self, Read, Write};
use std::sync::Arc;

pub use ahead::Ahead;
use gzip::Gzip;
use input::{Input, invalid};
use members::MemberParts;
pub use place::Compression;
pub use restart::{Recorder, Restart};
pub use room::{ROOM, Room};
pub use seek::{BlobSection, Seek};
use zstd::Zstd;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::tar;

/// Bytes written at once by [`decompress`].
const CHUNK: usize = 256 << 10;
/// Output below which the ratio is not looked at: zeros compress well.
const RATIO_FROM: u64 = 1 << 30;

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
    compression: Option<Compression>,
    codec: Codec,
    members: Option<MemberParts>,
    recorder: Option<Recorder>,
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
            input: Input::new(reader),
            compression: None,
            codec: Codec::Unknown,
            members: None,
            recorder: None,
            written: 0,
            layer_bytes: limits.layer_bytes,
            ratio: limits.ratio,
            window_log: limits.zstd_window_log,
        }
    }

    /// The same, with members inflated ahead where others do that work: see [`Ahead::work`]. `ready` says whether bytes can
    /// be read without waiting for them. Bytes and errors are the same.
    pub fn with_ahead(reader: R, ready: fn(&mut R) -> bool, limits: &Limits, ahead: Arc<Ahead>) -> Self {
        let mut made = Decompressor::new(reader, limits);
        made.input.ready = Some(ready);
        made.members = Some(MemberParts::new(ahead, limits.zstd_window_log));
        made
    }

    /// Has parts inflated from where restart points say they begin, of a gzip blob. Called before the first byte is read.
    pub fn use_points(&mut self, restart: Restart) {
        if let Some(members) = &mut self.members {
            members.restart = Some(restart);
        }
    }

    /// Notes restart points of a gzip blob. Called before the first byte is read.
    pub fn note_points(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// What has noted restart points, once all is read; `None` for a blob that has none.
    pub fn take_points(&mut self) -> Option<Recorder> {
        self.recorder.take()
    }

    /// Fills `out` with the next decompressed bytes. Less than `out.len()` bytes are written only at the end; 0 is
    /// the end, reached only after every checksum was right and no byte was left over.
    ///
    /// # Errors
    /// `compression_invalid` for bytes that are neither gzip, zstd nor tar, and for a stream that is damaged, ends
    /// early or goes on after its end; `tar_invalid` for a tar archive whose first header has a wrong checksum; `limit_exceeded` for more bytes than `Limits::layer_bytes`, for a ratio over
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
        self.compression
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
            let (compression, codec) = sniff(&mut self.input, self.window_log)?;
            (self.compression, self.codec) = (Some(compression), codec);
            let recorder = self.recorder.take();
            match &mut self.codec {
                Codec::Gzip(gzip) => gzip.recorder = recorder,
                _ => self.forget_points(),
            }
        }
        let mut filled = 0;
        while filled < out.len() {
            let room = &mut out[filled..];
            let (written, layer_bytes, ratio) = (self.written, self.layer_bytes, self.ratio);
            let allowed = |bytes, taken| within(written + bytes, taken, layer_bytes, ratio);
            let step = match (&mut self.codec, &mut self.members) {
                (Codec::Plain, _) => self.input.copy(room)?,
                (Codec::Gzip(gzip), None) => gzip.read(&mut self.input, room)?,
                (Codec::Zstd(zstd), None) => zstd.read(&mut self.input, room)?,
                (Codec::Gzip(gzip), Some(members)) => members.read(&mut **gzip, &mut self.input, room, allowed)?,
                (Codec::Zstd(zstd), Some(members)) => members.read(&mut **zstd, &mut self.input, room, allowed)?,
                (Codec::Ended, _) => None,
                (Codec::Unknown | Codec::Failed, _) => {
                    return Err(invalid("the layer was found damaged before this byte"));
                }
            };
            let Some(step) = step else {
                if let Codec::Gzip(gzip) = &mut self.codec {
                    self.recorder = gzip.recorder.take();
                }
                self.codec = Codec::Ended;
                break;
            };
            filled += step;
            self.written += step as u64;
            self.check_limits()?;
        }
        Ok(filled)
    }

    /// Points are of gzip alone.
    fn forget_points(&mut self) {
        if let Some(members) = &mut self.members {
            members.restart = None;
        }
    }

    fn check_limits(&self) -> Result<()> {
        if self.written > self.layer_bytes {
            let message = format!("the layer decompresses to more than {} bytes", self.layer_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        if !within(self.written, self.input.taken, self.layer_bytes, self.ratio) {
            let (written, taken) = (self.written, self.input.taken);
            let message = format!("{taken} bytes decompress to {written}, more than {} times as many", self.ratio);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        Ok(())
    }
}

/// Whether so many bytes may come of so many.
fn within(written: u64, taken: u64, layer_bytes: u64, ratio: u64) -> bool {
    written <= layer_bytes && (written <= RATIO_FROM || written / ratio.max(1) <= taken)
}

/// Decompresses a whole blob from `reader` to `writer`; returns the digest of what was written, and its length.
///
/// ```
/// use ocifast_core::{decompress::decompress, limits::Limits};
///
/// let mut written = Vec::new();
/// let (diff_id, length) = decompress(&[0; 1024][..], &mut written, &Limits::default())?;
/// assert_eq!((written.len(), length), (1024, 1024));
/// assert!(diff_id.as_str().starts_with("sha256:5f70bf18a0860070"));
/// # Ok::<(), ocifast_core::error::Error>(())
/// ```
///
/// # Errors
/// As [`Decompressor::read_chunk`]; `io_error` when writing fails.
pub fn decompress<R: Read, W: Write>(reader: R, mut writer: W, limits: &Limits) -> Result<(Digest, u64)> {
    let mut decompressor = Decompressor::new(reader, limits);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = decompressor.read_chunk(&mut chunk)?;
        if length == 0 {
            return Ok((hasher.finish(), decompressor.bytes_out()));
        }
        hasher.update(&chunk[..length]);
        writer.write_all(&chunk[..length]).map_err(|error| Error::io("cannot write decompressed bytes", &error))?;
    }
}

/// For those who want a `BufRead`: in a [`std::io::BufReader`] of 256 KiB it inflates straight into that one's buffer. The
/// core's [`Error`] is inside the `io::Error`.
impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read_chunk(out).map_err(io::Error::other)
    }
}

/// Looks at the first bytes. An empty blob is an empty archive.
fn sniff<R: Read>(input: &mut Input<R>, window_log: u32) -> Result<(Compression, Codec)> {
    let start = input.at_least(512)?;
    match start {
        [0x1f, 0x8b, ..] => Ok((Compression::Gzip, Codec::Gzip(Box::new(Gzip::new())))),
        _ if zstd::magic(start) => Ok((Compression::Zstd, Codec::Zstd(Box::new(Zstd::new(window_log)?)))),
        _ if start.is_empty() || tar::looks_like_tar(start) => Ok((Compression::None, Codec::Plain)),
        _ => Err(tar::damaged_header(start).unwrap_or_else(|| unknown(start))),
    }
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
