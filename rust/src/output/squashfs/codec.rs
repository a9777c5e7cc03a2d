//! Compression of one block.

use std::io;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status as XzStatus, Stream};
use lz4::block::{self, CompressionMode};
use zstd::bulk::{Compressor, Decompressor};

use super::format::{Fields, METADATA};
use crate::error::{Code, Error, Result};

/// Least and most bytes of a block.
const BLOCKS: std::ops::RangeInclusive<usize> = 4096..=1 << 20;

/// Preset of xz, the one of its own default.
const XZ_PRESET: u32 = 6;

/// Level of lz4's slow mode, the highest one; mksquashfs has no other.
const LZ4HC_LEVEL: i32 = 12;

/// What compresses blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Zstandard, read since Linux 4.14.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
    /// zlib.
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// xz with LZMA2 and CRC-32, read since Linux 2.6.38.
    Xz,
    /// LZ4, read since Linux 3.19.
    Lz4 {
        /// Whether time is taken to compress better.
        high: bool,
    },
    /// Nothing.
    Plain,
}

/// What is to be compressed how.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    /// With what.
    pub algorithm: Algorithm,
    /// Bytes of a block of data, a power of two from 4096 to 1 MiB.
    pub block: usize,
    /// Whether ends of files are packed together.
    pub packs_tails: bool,
    /// Threads that compress; they change nothing in the image.
    pub threads: usize,
}

impl Compression {
    /// By name: `zstd`, `gzip` (both with levels), `xz`, `lz4`, `lz4hc`, `none`.
    ///
    /// # Errors
    /// `internal_error` for another name, and for a level or size of blocks that there is not.
    pub fn parse(name: &str, level: Option<i32>, block: usize, packs_tails: bool, threads: usize) -> Result<Self> {
        let algorithm = match (name, level) {
            ("zstd", None) => Algorithm::Zstd { level: 3 },
            ("zstd", Some(level @ 1..=22)) => Algorithm::Zstd { level },
            ("gzip", None) => Algorithm::Gzip { level: 6 },
            ("gzip", Some(level @ 1..=9)) => Algorithm::Gzip { level: level as u32 },
            ("xz", None) => Algorithm::Xz,
            ("lz4", None) => Algorithm::Lz4 { high: false },
            ("lz4hc", None) => Algorithm::Lz4 { high: true },
            ("none", None) => Algorithm::Plain,
            _ => {
                let level = level.map(|level| format!(" of level {level}")).unwrap_or_default();
                return Err(Error::new(Code::Internal, format!("squashfs has no compression {name}{level}")));
            }
        };
        if !BLOCKS.contains(&block) || !block.is_power_of_two() {
            let message = "a block of squashfs has 4096 to 1048576 bytes, a power of two";
            return Err(Error::new(Code::Internal, message));
        }
        Ok(Compression { algorithm, block, packs_tails, threads: threads.max(1) })
    }

    /// Whether both make the same of the same data: threads change nothing.
    pub fn makes_the_same_as(&self, other: &Compression) -> bool {
        let bytes = |one: &Compression| (one.algorithm, one.block, one.packs_tails);
        bytes(self) == bytes(other)
    }

    /// The format's number of the compressor. An image without compression names one all the same, the oldest.
    pub fn number(&self) -> u16 {
        match self.algorithm {
            Algorithm::Gzip { .. } | Algorithm::Plain => 1,
            Algorithm::Xz => 4,
            Algorithm::Lz4 { .. } => 5,
            Algorithm::Zstd { .. } => 6,
        }
    }

    /// Whether nothing is compressed.
    pub fn is_plain(&self) -> bool {
        self.algorithm == Algorithm::Plain
    }

    /// The compressor's settings, which follow the superblock.
    pub fn settings(&self) -> Option<Vec<u8>> {
        const LZ4_LEGACY: u32 = 1;
        match self.algorithm {
            Algorithm::Zstd { level } => Some(Fields::default().u32(level as u32).0),
            // The largest window, no strategy but the usual one.
            Algorithm::Gzip { level } => Some(Fields::default().u32(level).u16(15).u16(0).0),
            Algorithm::Lz4 { high } => Some(Fields::default().u32(LZ4_LEGACY).u32(u32::from(high)).0),
            // Readers take the block's size for the dictionary's.
            Algorithm::Xz | Algorithm::Plain => None,
        }
    }
}

enum Engine {
    Zstd(Box<Compressor<'static>>),
    Gzip(Box<Compress>),
    Xz { dictionary: u32 },
    Lz4(CompressionMode),
    Plain,
}

/// Compresses blocks; one for each thread.
pub struct BlockCodec {
    engine: Engine,
    out: Vec<u8>,
}

/// The level of the library whose results are as small as those of zlib at `level`: some of its levels are faster and
/// larger than what people know by their number.
fn library_level(level: u32) -> u32 {
    match level {
        1 | 6 | 8 => level + 1,
        _ => level,
    }
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::new(Code::OutputUnsupported, format!("compression failed: {why}"))
}

impl BlockCodec {
    /// A codec for blocks of data and of metadata.
    ///
    /// # Errors
    /// `output_unsupported` when a library refuses the settings.
    pub fn new(compression: &Compression) -> Result<Self> {
        let engine = match compression.algorithm {
            Algorithm::Zstd { level } => Engine::Zstd(Box::new(Compressor::new(level).map_err(failed)?)),
            Algorithm::Gzip { level } => {
                Engine::Gzip(Box::new(Compress::new(flate2::Compression::new(library_level(level)), true)))
            }
            Algorithm::Xz => Engine::Xz { dictionary: compression.block.max(METADATA) as u32 },
            Algorithm::Lz4 { high: false } => Engine::Lz4(CompressionMode::DEFAULT),
            Algorithm::Lz4 { high: true } => Engine::Lz4(CompressionMode::HIGHCOMPRESSION(LZ4HC_LEVEL)),
            Algorithm::Plain => Engine::Plain,
        };
        Ok(BlockCodec { engine, out: vec![0; compression.block.max(METADATA)] })
    }

    /// A block compressed, in fewer bytes than it has; `None` where that saves nothing.
    ///
    /// # Errors
    /// `output_unsupported` when a library fails, which it does for no data.
    pub fn compress(&mut self, plain: &[u8]) -> Result<Option<&[u8]>> {
        let Some(room) = plain.len().checked_sub(1).filter(|&room| room > 0) else { return Ok(None) };
        let out = &mut self.out[..room];
        // zstd and lz4 know one failure here, that there is no room: then compressing saves nothing.
        let length = match &mut self.engine {
            Engine::Zstd(zstd) => zstd.compress_to_buffer(plain, out).ok(),
            Engine::Gzip(zlib) => {
                zlib.reset();
                let status = zlib.compress(plain, out, FlushCompress::Finish).map_err(failed)?;
                (status == Status::StreamEnd).then(|| zlib.total_out() as usize)
            }
            Engine::Xz { dictionary } => xz(plain, *dictionary, out)?,
            Engine::Lz4(mode) => {
                block::compress_to_buffer(plain, Some(*mode), false, out).ok().filter(|&length| length > 0)
            }
            Engine::Plain => None,
        };
        Ok(length.map(|length| &self.out[..length]))
    }
}

fn xz(plain: &[u8], dictionary: u32, out: &mut [u8]) -> Result<Option<usize>> {
    let mut options = LzmaOptions::new_preset(XZ_PRESET).map_err(failed)?;
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32).map_err(failed)?;
    match stream.process(plain, out, Action::Finish) {
        Ok(XzStatus::StreamEnd) => Ok(Some(stream.total_out() as usize)),
        // No room: it would not save anything.
        Ok(_) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Fills `plain`, exactly, with what a codec of the same compression made `compressed` of.
///
/// # Errors
/// `io_error` when it is something else.
pub fn decompress(algorithm: Algorithm, compressed: &[u8], plain: &mut [u8]) -> Result<()> {
    let length: io::Result<usize> = match algorithm {
        Algorithm::Zstd { .. } => Decompressor::new().and_then(|mut zstd| zstd.decompress_to_buffer(compressed, plain)),
        Algorithm::Gzip { .. } => {
            let mut zlib = Decompress::new(true);
            match zlib.decompress(compressed, plain, FlushDecompress::Finish) {
                Ok(Status::StreamEnd) => Ok(zlib.total_out() as usize),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        }
        Algorithm::Xz => Stream::new_stream_decoder(u64::MAX, 0).map_err(io::Error::other).and_then(|mut stream| {
            match stream.process(compressed, plain, Action::Finish) {
                Ok(XzStatus::StreamEnd) => Ok(stream.total_out() as usize),
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        }),
        Algorithm::Lz4 { .. } => block::decompress_to_buffer(compressed, i32::try_from(plain.len()).ok(), plain),
        Algorithm::Plain => Err(io::Error::other("nothing is compressed")),
    };
    match length {
        Ok(length) if length == plain.len() => Ok(()),
        _ => Err(Error::new(Code::Io, "a block of the image is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compressor_takes_its_blocks_back() -> Result<()> {
        let text: Vec<u8> = (0..131_072u32).flat_map(|index| (index / 9).to_le_bytes()).take(131_072).collect();
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        for (name, level) in [
            ("zstd", Some(1)),
            ("zstd", None),
            ("zstd", Some(22)),
            ("gzip", Some(9)),
            ("xz", None),
            ("lz4", None),
            ("lz4hc", None),
        ] {
            let compression = Compression::parse(name, level, 1 << 17, true, 1)?;
            let mut codec = BlockCodec::new(&compression)?;
            for plain in [&text[..], &text[..5000], &text[..8192]] {
                let compressed = codec.compress(plain)?.expect("it saves bytes").to_vec();
                assert!(compressed.len() < plain.len() / 2, "{name}");
                let mut back = vec![1; plain.len()];
                decompress(compression.algorithm, &compressed, &mut back)?;
                assert!(back == plain, "{name}");
                let cut = &compressed[..compressed.len() - 1];
                assert!(decompress(compression.algorithm, cut, &mut back).is_err(), "{name}");
            }
            for plain in [&noise[..], &noise[..1], b"", &noise[..100]] {
                assert_eq!(codec.compress(plain)?, None, "{name}");
            }
            // What failed before does not last.
            assert!(codec.compress(&text)?.is_some(), "{name}");
        }
        Ok(())
    }
}
