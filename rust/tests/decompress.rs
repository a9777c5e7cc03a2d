//! Decompression of layers: every format, damaged in every way.

use std::io::{self, Read, Write};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use ocifast_core::decompress::{Compression, Decompressor};
use ocifast_core::error::{Code, Error, Result};
use ocifast_core::limits::Limits;

/// Gives at most `most` bytes a time.
struct Slow<'a>(&'a [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.1.min(out.len());
        self.0.read(&mut out[..most])
    }
}

fn decompress_with(blob: &[u8], piece: usize, chunk: usize, limits: &Limits) -> Result<(Vec<u8>, Option<Compression>)> {
    let mut layer = Decompressor::new(Slow(blob, piece), limits);
    let (mut all, mut out) = (Vec::new(), vec![0; chunk]);
    loop {
        let count = layer.read_chunk(&mut out)?;
        all.extend_from_slice(&out[..count]);
        assert_eq!(layer.bytes_out(), all.len() as u64);
        if count < chunk {
            assert_eq!(layer.read_chunk(&mut out)?, 0, "after the end there is nothing");
            assert_eq!(layer.bytes_in(), blob.len() as u64, "all input was read");
            return Ok((all, layer.compression()));
        }
    }
}

fn decompress(blob: &[u8]) -> Result<Vec<u8>> {
    Ok(decompress_with(blob, usize::MAX, 256 << 10, &Limits::default())?.0)
}

fn refused(blob: &[u8]) -> Error {
    decompress(blob).expect_err("refused")
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("in memory");
    encoder.include_checksum(true).expect("in memory");
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Something that neither compresses away nor stays as it is.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn members_and_frames_in_pieces_of_any_size() -> Result<()> {
    let data = sample(70_000);
    let (one, two) = data.split_at(30_000);
    let skippable = [&b"\x5e\x2a\x4d\x18\x03\0\0\0"[..], b"abc"].concat();
    let table = [
        ("gzip", Compression::Gzip, gzip(&data)),
        ("members", Compression::Gzip, [gzip(one), gzip(b""), gzip(two)].concat()),
        ("padded", Compression::Gzip, [gzip(&data), vec![0; 1000]].concat()),
        ("zstd", Compression::Zstd, zstd(&data)),
        ("frames", Compression::Zstd, [zstd(one), zstd(b""), zstd(two)].concat()),
        ("skippable", Compression::Zstd, [&skippable[..], &zstd(one), &skippable, &zstd(two), &skippable].concat()),
    ];
    for (name, compression, blob) in table {
        for (piece, chunk) in [(usize::MAX, 1 << 20), (1, 1 << 20), (usize::MAX, 1), (7, 70_000), (1000, 999)] {
            let (seen, kind) = decompress_with(&blob, piece, chunk, &Limits::default())?;
            assert_eq!(kind, Some(compression), "{name}");
            assert!(seen == data, "{name} in pieces of {piece} into chunks of {chunk}");
        }
    }
    Ok(())
}

#[test]
fn every_truncation_is_noticed() {
    let data = sample(3000);
    let optional = {
        let builder = flate2::GzBuilder::new().filename("name").comment("comment").extra(vec![1, 2, 3]);
        let mut encoder = builder.write(Vec::new(), Level::default());
        encoder.write_all(&data).expect("in memory");
        encoder.finish().expect("in memory")
    };
    assert_eq!(decompress(&optional).expect("valid"), data);
    for blob in [gzip(&data), optional, zstd(&data)] {
        for length in 1..blob.len() {
            let error = refused(&blob[..length]);
            assert_eq!(error.code, Code::CompressionInvalid, "{length} bytes: {error}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_checksummed_body_is_noticed() {
    let data = sample(500);
    // From byte 10 on there is nothing but data and checksums (gzip), from byte 4 on nothing but headers that count.
    for (blob, from) in [(gzip(&data), 10), (zstd(&data), 4)] {
        for at in from..blob.len() {
            let mut damaged = blob.clone();
            damaged[at] ^= 1;
            match decompress(&damaged) {
                Err(error) => assert!(matches!(error.code, Code::CompressionInvalid | Code::LimitExceeded)),
                // A bit that means nothing, like that for the size of the frame's window.
                Ok(seen) => assert!(seen == data, "byte {at}"),
            }
        }
    }
}

#[test]
fn headers_of_gzip() {
    let data = sample(100);
    let plain = gzip(&data);
    // All optional fields of RFC 1952: extra, name, comment, and the header's own checksum.
    let header = [&b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03"[..], b"\x02\0ab", b"name\0", b"comment\0"].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let sum = &crc.sum().to_le_bytes()[..2];
    assert_eq!(decompress(&[&header, sum, &plain[10..]].concat()).expect("valid"), data);
    let wrong = [sum[0] ^ 1, sum[1]];
    let error = refused(&[&header, &wrong[..], &plain[10..]].concat());
    assert_eq!(error.to_string(), "the gzip header's checksum is wrong");
    let with = |at: usize, byte: u8| {
        let mut blob = plain.clone();
        blob[at] = byte;
        refused(&blob).to_string()
    };
    assert_eq!(with(2, 7), "the gzip stream has the unknown method 7");
    assert_eq!(with(3, 0x20), "the gzip stream has reserved flags: 0x20");
}

#[test]
fn what_follows_the_end_is_refused() {
    let data = sample(100);
    for (blob, tail) in [
        (gzip(&data), &b"x"[..]),
        (gzip(&data), b"\0\0x"),
        (gzip(&data), b"\x1f"),
        (gzip(&data), b"\x1f\x8b"),
        (zstd(&data), b"x"),
        (zstd(&data), b"\0\0\0\0"),
        (zstd(&data), b"\x28\xb5"),
    ] {
        let error = refused(&[&blob[..], tail].concat());
        assert_eq!(error.code, Code::CompressionInvalid, "{}", tail.escape_ascii());
    }
}

#[test]
fn other_formats_are_named() {
    for (blob, expected) in [
        (
            &b"BZh91AY&SY"[..],
            "the layer is compressed with bzip2 (first bytes 42 5a 68 39 31 41 59 26); only gzip and zstd are allowed",
        ),
        (
            b"\xfd7zXZ\0\0\x04",
            "the layer is compressed with xz (first bytes fd 37 7a 58 5a 00 00 04); only gzip and zstd are allowed",
        ),
        (
            b"\x5d\0\0\x80\0",
            "the layer is compressed with lzma (first bytes 5d 00 00 80 00); only gzip and zstd are allowed",
        ),
        (
            b"\x04\x22\x4d\x18",
            "the layer is compressed with lz4 (first bytes 04 22 4d 18); only gzip and zstd are allowed",
        ),
        (b"<html>", "the layer is neither gzip, zstd nor a tar archive: its first bytes are 3c 68 74 6d 6c 3e"),
        (b"\x1f", "the layer is neither gzip, zstd nor a tar archive: its first bytes are 1f"),
    ] {
        assert_eq!(refused(blob).to_string(), expected);
    }
    assert_eq!(refused(&[1; 600]).code, Code::CompressionInvalid);
}

#[test]
fn plain_archives_pass_unchanged() -> Result<()> {
    assert_eq!(decompress(b"")?, b"");
    let archive = [0; 5000];
    for (piece, chunk) in [(usize::MAX, 1 << 20), (1, 700), (600, 1)] {
        let (seen, kind) = decompress_with(&archive, piece, chunk, &Limits::default())?;
        assert_eq!((&seen[..], kind), (&archive[..], Some(Compression::None)));
    }
    Ok(())
}

#[test]
fn bounds_hold() {
    let small = Limits { layer_bytes: 9_999, ..Limits::default() };
    for blob in [gzip(&sample(10_000)), zstd(&sample(10_000)), vec![0; 10_000]] {
        let error = decompress_with(&blob, usize::MAX, 1 << 20, &small).expect_err("refused");
        assert_eq!(error.to_string(), "the layer decompresses to more than 9999 bytes");
    }
    let window = Limits { zstd_window_log: 12, ..Limits::default() };
    let error = decompress_with(&zstd(&sample(100_000)), usize::MAX, 1 << 20, &window).expect_err("refused");
    assert_eq!(error.to_string(), "the zstd stream needs a window of more than 2^12 bytes");
}

#[test]
fn the_ratio_counts_from_a_gibibyte_on() -> Result<()> {
    let zeros = vec![0; 64 << 20];
    let mut chunk = vec![0; 1 << 20];
    for one in [gzip(&zeros), zstd(&zeros)] {
        let low = Limits { ratio: 500, ..Limits::default() };
        // A file of zeros, as honest images have them.
        let mut honest = Decompressor::new(&one[..], &low);
        while honest.read_chunk(&mut chunk)? > 0 {}
        let bomb = one.repeat(17);
        let mut bomb = Decompressor::new(&bomb[..], &low);
        let error = loop {
            match bomb.read_chunk(&mut chunk) {
                Ok(0) => panic!("a bomb was taken"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, Code::LimitExceeded);
        assert!(bomb.bytes_out() <= (1 << 30) + (2 << 20), "it stops at once");
    }
    Ok(())
}

#[test]
fn a_header_with_a_wrong_checksum_is_called_that() {
    let sums = |archive: &mut [u8], sum: &[u8]| archive[148..148 + sum.len()].copy_from_slice(sum);
    let mut ustar = [0; 1024];
    ustar[..4].copy_from_slice(b"file");
    ustar[257..263].copy_from_slice(b"ustar\0");
    sums(&mut ustar, b"0000001\0");
    let mut v7 = [0; 1024];
    v7[..4].copy_from_slice(b"file");
    for at in [100, 108, 116, 124, 136] {
        v7[at..at + 8].copy_from_slice(b"0000644\0");
    }
    sums(&mut v7, b"0000001\0");
    for archive in [ustar, v7] {
        let error = decompress(&archive).expect_err("refused");
        assert_eq!(error.code, Code::TarInvalid);
        assert!(error.to_string().starts_with("the header's checksum is 1, the sum of its bytes is"), "{error}");
    }
    let garbage = [b'x'; 1024];
    assert_eq!(decompress(&garbage).expect_err("refused").code, Code::CompressionInvalid);
}

#[test]
fn a_failed_decompressor_stays_failed() {
    let mut blob = gzip(&sample(100));
    let last = blob.len() - 1;
    blob[last] ^= 1;
    let mut layer = Decompressor::new(&blob[..], &Limits::default());
    let mut out = [0; 1000];
    assert!(layer.read_chunk(&mut out).is_err());
    assert!(layer.read_chunk(&mut out).is_err());
}

#[test]
fn an_error_of_the_reader_comes_through() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::new(Code::Cancelled, "called off")))
        }
    }
    let error = Decompressor::new(Broken, &Limits::default()).read_chunk(&mut [0; 10]).expect_err("fails");
    assert_eq!((error.code, error.to_string()), (Code::Cancelled, "called off".to_owned()));
}
