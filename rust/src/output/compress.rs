//! Compression of a stream on its way out. The same bytes give the same stream, whatever the machine.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::error::{Code, Error, Result};

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamCompression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952), without a name or a time.
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// Zstandard (RFC 8878), one frame with a checksum.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
}

impl StreamCompression {
    /// By name: `none`, `gzip`, `zstd`.
    ///
    /// # Errors
    /// `internal_error` for another name, or a level that the compression does not have.
    pub fn parse(name: &str, level: i32) -> Result<Self> {
        match (name, level) {
            ("none", _) => Ok(StreamCompression::None),
            ("gzip", 1..=9) => Ok(StreamCompression::Gzip { level: level.unsigned_abs() }),
            ("zstd", 1..=22) => Ok(StreamCompression::Zstd { level }),
            _ => Err(Error::new(Code::Internal, format!("no compression {name} of level {level}"))),
        }
    }
}

/// Compresses what is written to it. The stream is complete only after [`Compressor::finish`].
///
/// Deflate's output follows from the sizes of the pieces that it is given, so it is given pieces of one size whatever the
/// caller writes.
pub struct Compressor<W: Write> {
    piece: Vec<u8>,
    encoder: Encoder<W>,
}

const PIECE: usize = 128 << 10;

enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// A compressor over `out`.
    ///
    /// # Errors
    /// `io_error` for a zstd level that does not exist.
    pub fn new(out: W, compression: StreamCompression) -> Result<Self> {
        let encoder = match compression {
            StreamCompression::None => Encoder::None(out),
            StreamCompression::Gzip { level } => Encoder::Gzip(GzEncoder::new(out, flate2::Compression::new(level))),
            StreamCompression::Zstd { level } => {
                let encoder = zstd::stream::write::Encoder::new(out, level).and_then(|mut encoder| {
                    encoder.include_checksum(true)?;
                    Ok(encoder)
                });
                Encoder::Zstd(encoder.map_err(|error| Error::io("cannot compress with zstd", &error))?)
            }
        };
        Ok(Compressor { piece: Vec::with_capacity(PIECE), encoder })
    }

    /// Ends the stream and gives `out` back.
    ///
    /// # Errors
    /// `io_error`.
    pub fn finish(self) -> Result<W> {
        let Compressor { piece, mut encoder } = self;
        let finished = encoder.write_all(&piece).and_then(|()| match encoder {
            Encoder::None(mut out) => out.flush().map(|()| out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        });
        finished.map_err(|error| Error::io("writing the archive", &error))
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.encoder.write_all(&self.piece)?;
            self.piece.clear();
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Nothing: an encoder that hands on what it has ends a block, and when it is called must change no byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn streams_decompress_to_what_was_written() -> Result<()> {
        let bytes: Vec<u8> = (0..500_000u32).map(|index| (index / 3 % 256) as u8).collect();
        for compression in
            [StreamCompression::None, StreamCompression::Gzip { level: 6 }, StreamCompression::Zstd { level: 3 }]
        {
            let mut streams = Vec::new();
            // The size of the pieces is the caller's, not the stream's affair.
            for piece in [1000, 77_777] {
                let mut compressor = Compressor::new(Vec::new(), compression)?;
                for part in bytes.chunks(piece) {
                    compressor.write_all(part).expect("memory");
                    compressor.flush().expect("memory");
                }
                streams.push(compressor.finish()?);
            }
            assert!(streams[0] == streams[1], "{compression:?}");
            let mut back = Vec::new();
            let stream = &streams[0][..];
            let read = match compression {
                StreamCompression::None => Box::new(stream).read_to_end(&mut back),
                StreamCompression::Gzip { .. } => flate2::read::GzDecoder::new(stream).read_to_end(&mut back),
                StreamCompression::Zstd { .. } => {
                    zstd::stream::read::Decoder::new(stream).expect("a frame").read_to_end(&mut back)
                }
            };
            assert_eq!(read.ok(), Some(bytes.len()));
            assert!(back == bytes, "{compression:?}");
        }
        Ok(())
    }
}
