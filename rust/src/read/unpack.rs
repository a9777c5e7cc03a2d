//! Single compressed blocks, of a length that is known before.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};
use liblzma::stream::{Action, Stream};

use super::common::invalid;
use crate::error::Result;

/// How a block is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockAlgorithm {
    /// A block of LZ4 without a frame (lz4_Block_format.md).
    Lz4,
    /// One frame of zstd (RFC 8878).
    Zstd,
    /// RFC 1951.
    Deflate,
    /// RFC 1950.
    Zlib,
    /// One stream of xz.
    Xz,
    /// LZMA whose first byte, always zero, holds its properties inverted instead; a dictionary of so many bytes.
    MicroLzma(u32),
}

/// Memory that a decoder of xz may take, in bytes.
const XZ_MEMORY: u64 = 64 << 20;

/// Unpacks up to `most` bytes; what follows them is not read.
///
/// # Errors
/// `filesystem_invalid` for what is damaged. Less than `most` bytes are no error here.
pub(super) fn unpack(algorithm: BlockAlgorithm, stored: &[u8], most: usize) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    match algorithm {
        BlockAlgorithm::Lz4 => plain = lz4(stored, most).ok_or_else(|| damaged("LZ4"))?,
        BlockAlgorithm::Zstd => {
            // A window is at most as large as what is wanted, or not used to its end.
            let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(|_| damaged("zstd"))?;
            let mut decoder = decoder.single_frame();
            decoder.window_log_max(27).map_err(|_| damaged("zstd"))?;
            decoder.take(most as u64).read_to_end(&mut plain).map_err(|_| damaged("zstd"))?;
        }
        BlockAlgorithm::Deflate | BlockAlgorithm::Zlib => {
            let mut decoder = Decompress::new(algorithm == BlockAlgorithm::Zlib);
            plain = vec![0; most];
            decoder.decompress(stored, &mut plain, FlushDecompress::Finish).map_err(|_| damaged("deflate"))?;
            plain.truncate(usize::try_from(decoder.total_out()).unwrap_or(most));
        }
        BlockAlgorithm::Xz => {
            let decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(|_| damaged("xz"))?;
            plain = lzma(decoder, &[stored], most, "xz")?;
        }
        BlockAlgorithm::MicroLzma(dictionary) => {
            let (first, rest) = stored.split_first().ok_or_else(|| damaged("LZMA"))?;
            let decoder = Stream::new_lzma_decoder(XZ_MEMORY).map_err(|_| damaged("LZMA"))?;
            let mut head = vec![!first];
            head.extend_from_slice(&dictionary.to_le_bytes());
            head.extend_from_slice(&(most as u64).to_le_bytes());
            head.push(0);
            plain = lzma(decoder, &[&head, rest], most, "LZMA")?;
        }
    }
    Ok(plain)
}

fn damaged(what: &str) -> crate::error::Error {
    invalid(format!("a block of {what} data is damaged"))
}

fn lzma(mut decoder: Stream, parts: &[&[u8]], most: usize, what: &str) -> Result<Vec<u8>> {
    let mut plain = vec![0; most];
    for part in parts {
        let mut from = 0;
        while from < part.len() {
            let (read, written) = (decoder.total_in(), decoder.total_out() as usize);
            let room = plain.get_mut(written..).unwrap_or_default();
            decoder.process(&part[from..], room, Action::Run).map_err(|_| damaged(what))?;
            from += (decoder.total_in() - read) as usize;
            if decoder.total_in() == read && decoder.total_out() as usize == written {
                break;
            }
        }
    }
    plain.truncate(decoder.total_out() as usize);
    Ok(plain)
}

/// A number of LZ4 that goes on in bytes of 255.
fn length(stored: &[u8], at: &mut usize, first: u8) -> Option<usize> {
    let mut length = usize::from(first);
    if first == 15 {
        loop {
            let byte = *stored.get(*at)?;
            *at += 1;
            length = length.checked_add(usize::from(byte))?;
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Stops where `most` bytes are there, in the middle of a sequence as well.
fn lz4(stored: &[u8], most: usize) -> Option<Vec<u8>> {
    // Memory follows what is stored: one byte of it makes 255 at most.
    let mut plain: Vec<u8> = Vec::with_capacity(most.min(stored.len().saturating_mul(255)));
    let mut at = 0;
    while plain.len() < most {
        let Some(&token) = stored.get(at) else { break };
        at += 1;
        let literals = length(stored, &mut at, token >> 4)?;
        let taken = literals.min(most - plain.len());
        plain.extend_from_slice(stored.get(at..at.checked_add(taken)?)?);
        at += literals;
        if plain.len() == most || at >= stored.len() {
            break;
        }
        let distance = usize::from(u16::from_le_bytes([*stored.get(at)?, *stored.get(at + 1)?]));
        at += 2;
        let mut left = (length(stored, &mut at, token & 15)?.checked_add(4)?).min(most - plain.len());
        let from = plain.len().checked_sub(distance).filter(|_| distance > 0)?;
        // What is copied may be what was just copied.
        while left > 0 {
            let part = left.min(plain.len() - from);
            plain.extend_from_within(from..from + part);
            left -= part;
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..20_000u32).flat_map(|at| (at / 7 * at % 1009).to_le_bytes()).collect();
        bytes.extend_from_slice(&[7; 70_000]);
        bytes
    }

    fn compressed(plain: &[u8]) -> Vec<(BlockAlgorithm, Vec<u8>)> {
        use liblzma::stream::{LzmaOptions, Stream};
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(plain).expect("written");
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflate.write_all(plain).expect("written");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 3);
        xz.write_all(plain).expect("written");
        let mut options = LzmaOptions::new_preset(3).expect("known");
        options.dict_size(1 << 16);
        let stream = Stream::new_lzma_encoder(&options).expect("an encoder");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(plain).expect("written");
        let lzma = lzma.finish().expect("finished");
        let mut micro = lzma[13..].to_vec();
        assert_eq!(micro[0], 0);
        micro[0] = !lzma[0];
        vec![
            (BlockAlgorithm::Lz4, lz4_flex::block::compress(plain)),
            (BlockAlgorithm::Zstd, zstd::bulk::compress(plain, 3).expect("compressed")),
            (BlockAlgorithm::Deflate, deflate.finish().expect("finished")),
            (BlockAlgorithm::Zlib, zlib.finish().expect("finished")),
            (BlockAlgorithm::Xz, xz.finish().expect("finished")),
            (BlockAlgorithm::MicroLzma(1 << 16), micro),
        ]
    }

    #[test]
    fn every_algorithm_gives_back_what_was_packed() {
        let plain = sample();
        for (algorithm, stored) in compressed(&plain) {
            assert!(stored.len() < plain.len(), "{algorithm:?}");
            let found = unpack(algorithm, &stored, plain.len()).expect("sound");
            assert!(found == plain, "{algorithm:?}");
        }
    }

    #[test]
    fn a_part_can_be_had() {
        let plain = sample();
        for (algorithm, stored) in compressed(&plain) {
            if !matches!(algorithm, BlockAlgorithm::MicroLzma(_)) {
                let found = unpack(algorithm, &stored, 12_345).expect("sound");
                assert!(found == plain[..12_345], "{algorithm:?}");
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_other_bytes_and_never_more_of_them() {
        let plain = sample();
        for (algorithm, stored) in compressed(&plain) {
            for at in (0..stored.len()).step_by(stored.len() / 300 + 1) {
                let mut damaged = stored.clone();
                damaged[at] ^= 0x55;
                if let Ok(found) = unpack(algorithm, &damaged, plain.len()) {
                    assert!(found.len() <= plain.len());
                }
                let _ = unpack(algorithm, &stored[..at], plain.len());
            }
        }
    }
}
