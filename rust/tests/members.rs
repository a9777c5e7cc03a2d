//! Members that are inflated side by side give what one thread gives: bytes, errors and their texts.

mod ahead_support;

use std::io::Write;

use ahead_support::{Random, in_order, side_by_side};
use flate2::write::GzEncoder;
use flate2::{Compress, Compression as Level, Crc, FlushCompress, GzBuilder};
use ocifast_core::limits::Limits;

/// Asserts that nothing depends on the helpers; returns how many parts were taken by one.
fn agree(what: &str, blob: &[u8], limits: &Limits) -> u64 {
    let expected = in_order(blob, 256 << 10, limits);
    let mut taken = 0;
    for (helpers, piece, chunk) in [(0, 1 << 20, 256 << 10), (1, 1 << 20, 256 << 10), (3, 100_000, 256 << 10)] {
        let (seen, ahead) = side_by_side(blob, helpers, (piece, chunk), limits, None);
        let parts = ahead.taken();
        assert_eq!(seen.1, expected.1, "{what} with {helpers}");
        assert!(seen.0 == expected.0, "{what} with {helpers}: {} bytes of {}", seen.0.len(), expected.0.len());
        assert!(helpers > 0 || parts == 0, "{what}: nothing is inflated ahead where it is not wanted");
        taken = taken.max(parts);
    }
    taken
}

/// A member with this or that of what RFC 1952 allows.
fn member(random: &mut Random, data: &[u8]) -> Vec<u8> {
    let level = Level::new([0, 1, 6][random.next(3)]);
    let mut builder = GzBuilder::new();
    if random.next(3) == 0 {
        builder = builder.filename("name").comment("a comment").extra(random.bytes(500));
    }
    let mut encoder = builder.write(Vec::new(), level);
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Members of many sizes, about so many bytes together.
fn members(random: &mut Random, total: usize) -> Vec<u8> {
    let mut blob = Vec::new();
    while blob.len() < total {
        let most = [1, 2, 1000, 30_000, 300_000, 1_500_000][random.next(6)];
        let length = random.next(most);
        let data = random.bytes(length);
        blob.extend(member(random, &data));
    }
    blob
}

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::new(level));
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

/// One member of blocks that refer to nothing before them, with the marks that `pigz -i` writes between them.
fn independent(pieces: &[Vec<u8>]) -> Vec<u8> {
    let (mut blob, mut crc) = (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), Crc::new());
    for piece in pieces {
        crc.update(piece);
        let mut compress = Compress::new(Level::default(), false);
        let mut out = Vec::with_capacity(piece.len() + 1000);
        compress.compress_vec(piece, &mut out, FlushCompress::Sync).expect("in memory");
        assert_eq!(compress.total_in(), piece.len() as u64);
        blob.extend(out);
        blob.extend(b"\0\0\0\xff\xff");
    }
    blob.extend(b"\x03\0");
    blob.extend(crc.sum().to_le_bytes());
    blob.extend(crc.amount().to_le_bytes());
    blob
}

#[test]
fn members_of_all_kinds() {
    let mut random = Random(1);
    let mut taken = 0;
    for round in 0..6 {
        let blob = members(&mut random, 3 << 20);
        taken += agree(&format!("round {round}"), &blob, &Limits::default());
    }
    assert!(taken > 6, "{taken} parts were inflated side by side");
}

#[test]
fn one_member_and_too_large_ones_are_read_in_order() {
    let mut random = Random(2);
    let data = random.bytes(8 << 20);
    assert_eq!(agree("one", &gzip(&data, 1), &Limits::default()), 0);
    // Five MiB of output, or of input, are more than a part may have.
    let zeros = gzip(&vec![0; 5 << 20], 6);
    agree("zeros", &zeros.repeat(100), &Limits::default());
    agree("large", &[gzip(&data[..5 << 20], 0), gzip(&data, 0)].concat(), &Limits::default());
}

#[test]
fn false_members_in_data_change_nothing() {
    let mut random = Random(3);
    let data = random.bytes(200_000);
    // Members inside stored blocks, whole and damaged, and nothing but their first bytes.
    let inner = [gzip(&data, 6), gzip(&data, 6)[..50_000].to_vec(), b"\x1f\x8b\x08\0".repeat(1000)].concat();
    for level in [0, 6] {
        agree("inner", &gzip(&inner.repeat(8), level).repeat(3), &Limits::default());
    }
}

#[test]
fn what_follows_the_end_is_said_as_ever() {
    let mut random = Random(4);
    let blob = members(&mut random, 2 << 20);
    for tail in
        [&b"\0\0\0"[..], b"\0\0x", b"garbage", b"\x1f", b"\x1f\x8b\x08\0", b"\x1f\x8b\x07\0", b"\x1f\x8b\x08\xe0"]
    {
        agree(&tail.escape_ascii().to_string(), &[&blob[..], tail].concat(), &Limits::default());
        // Zeros between members end the stream.
        agree("between", &[&blob[..], tail, &blob[..]].concat(), &Limits::default());
    }
}

#[test]
fn damage_is_found_where_it_is() {
    let mut random = Random(5);
    let blob = [members(&mut random, 2 << 20), independent(&vec![random.bytes(100_000); 20])].concat();
    for _ in 0..40 {
        let mut damaged = blob.clone();
        let at = random.next(blob.len());
        damaged[at] ^= 1 << random.next(8);
        agree(&format!("byte {at}"), &damaged, &Limits::default());
        damaged.clone_from(&blob);
        damaged.remove(at);
        agree(&format!("without byte {at}"), &damaged, &Limits::default());
        agree(&format!("up to byte {at}"), &blob[..at], &Limits::default());
    }
}

#[test]
fn every_bound_says_what_it_does_in_order() {
    let mut random = Random(6);
    let data = random.bytes(100_000);
    let blob = gzip(&data, 1).repeat(40);
    for layer_bytes in [1, 99_999, 1_234_567, 3_999_999, 4_000_000] {
        agree(&format!("{layer_bytes} bytes"), &blob, &Limits { layer_bytes, ..Limits::default() });
    }
}

#[test]
fn independent_blocks() {
    let mut random = Random(7);
    let pieces: Vec<_> = (0..30).map(|_| random.bytes(128 << 10)).collect();
    let blob = independent(&pieces);
    assert!(agree("independent", &blob, &Limits::default()) > 0);
    assert!(agree("twice", &blob.repeat(2), &Limits::default()) > 0);
    // The checksum of the member is of all its blocks, whoever inflates them.
    let mut wrong = blob.clone();
    let at = blob.len() - 8;
    wrong[at] ^= 1;
    agree("wrong CRC", &wrong, &Limits::default());
    // A mark where blocks do refer to what is before them.
    let mut compress = Compress::new(Level::default(), false);
    let mut dependent = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
    let mut crc = Crc::new();
    for _ in 0..30 {
        crc.update(&pieces[0]);
        let mut out = Vec::with_capacity(pieces[0].len() + 1000);
        compress.compress_vec(&pieces[0], &mut out, FlushCompress::Sync).expect("in memory");
        dependent.extend(out);
        dependent.extend(b"\0\0\0\xff\xff");
    }
    dependent.extend(b"\x03\0");
    dependent.extend(crc.sum().to_le_bytes());
    dependent.extend(crc.amount().to_le_bytes());
    agree("dependent", &dependent, &Limits::default());
}

#[test]
fn zstd_frames() {
    let mut random = Random(8);
    let frames: Vec<_> = (0..40)
        .map(|_| {
            let length = random.next(400_000);
            let mut encoder = zstd::Encoder::new(Vec::new(), 1 + random.next(3) as i32).expect("in memory");
            encoder.include_checksum(random.next(2) == 0).expect("in memory");
            encoder.write_all(&random.bytes(length)).expect("in memory");
            encoder.finish().expect("in memory")
        })
        .collect();
    let skippable = [&b"\x5e\x2a\x4d\x18\x03\0\0\0"[..], b"abc"].concat();
    let blob = [frames.concat(), skippable.clone(), frames.concat(), skippable].concat();
    assert!(agree("frames", &blob, &Limits::default()) > 0);
    for _ in 0..20 {
        let mut damaged = blob.clone();
        let at = random.next(blob.len());
        damaged[at] ^= 1 << random.next(8);
        agree(&format!("byte {at}"), &damaged, &Limits::default());
        agree(&format!("up to byte {at}"), &blob[..at], &Limits::default());
    }
    for layer_bytes in [99_999, 1_234_567, 5_000_000] {
        agree("bytes", &blob, &Limits { layer_bytes, ..Limits::default() });
    }
}
