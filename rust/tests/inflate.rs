//! Our decoder of DEFLATE against zlib-rs: the same bytes, and the same streams refused.

use std::io::{self, Read, Write};

use flate2::{Crc, Decompress, FlushDecompress, Status};
use ocifast_core::decompress::Decompressor;
use ocifast_core::error::Error;
use ocifast_core::limits::Limits;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseResult;

/// What zlib-rs makes of a stream.
enum Oracle {
    /// Its bytes, and its length.
    Data(Vec<u8>, usize),
    Damaged,
    EndsEarly,
}

const MOST: usize = 1 << 20;

fn oracle(stream: &[u8]) -> Oracle {
    let mut inflate = Decompress::new(false);
    let mut out = vec![0; MOST];
    match inflate.decompress(stream, &mut out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => {
            out.truncate(inflate.total_out() as usize);
            Oracle::Data(out, inflate.total_in() as usize)
        }
        Ok(_) => Oracle::EndsEarly,
        Err(_) => Oracle::Damaged,
    }
}

/// A member of gzip around a stream of DEFLATE.
fn member(stream: &[u8], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(data);
    let header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
    [&header[..], stream, &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()].concat()
}

/// Gives at most so many bytes a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.1.min(out.len());
        self.0.read(&mut out[..most])
    }
}

fn ours(blob: &[u8], piece: usize, chunk: usize) -> Result<Vec<u8>, Error> {
    let mut layer = Decompressor::new(Pieces(blob, piece), &Limits::default());
    let (mut all, mut out) = (Vec::new(), vec![0; chunk]);
    loop {
        match layer.read_chunk(&mut out)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&out[..count]),
        }
    }
}

fn agree(stream: &[u8], piece: usize, chunk: usize) -> TestCaseResult {
    match oracle(stream) {
        Oracle::Data(data, length) => {
            let once = member(&stream[..length], &data);
            let seen = ours(&[&once[..], &once].concat(), piece, chunk);
            let seen = seen.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(seen == [&data[..], &data].concat());
        }
        Oracle::Damaged => {
            let error = ours(&member(stream, b""), piece, chunk).expect_err("zlib-rs refuses it");
            prop_assert!(error.to_string().starts_with("the gzip stream is damaged: "), "{error}");
        }
        Oracle::EndsEarly => {
            let blob = &member(stream, b"")[..10 + stream.len()];
            let error = ours(blob, piece, chunk).expect_err("zlib-rs wants more").to_string();
            // Damage may be found sooner than zlib-rs finds it.
            let damaged = |more: u8| matches!(oracle(&[stream, &[more; 400][..]].concat()), Oracle::Damaged);
            let sooner = error.starts_with("the gzip stream is damaged: ") && damaged(0) && damaged(0xff);
            prop_assert!(sooner || error == "the gzip stream ends early", "{error}");
        }
    }
    Ok(())
}

fn deflate(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Runs, copies from near and far, and noise from alphabets of all sizes.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let noise = (1_u16..=256, 0_usize..3000, any::<u64>()).prop_map(|(letters, length, mut state)| {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(letters)) as u8
        };
        (None, (0..length).map(|_| next()).collect::<Vec<u8>>())
    });
    let run = (any::<u8>(), 0_usize..2000).prop_map(|(byte, length)| (None, vec![byte; length]));
    let copy = (any::<Index>(), 0_usize..40_000).prop_map(|(from, length)| (Some((from, length)), Vec::new()));
    prop::collection::vec(prop_oneof![noise, run, copy], 0..20).prop_map(|parts| {
        let mut all = Vec::new();
        for (copied, fresh) in parts {
            if let Some((from, length)) = copied
                && !all.is_empty()
            {
                let from = from.index(all.len());
                for at in from..from + length {
                    all.push(all[at]);
                }
            }
            all.extend_from_slice(&fresh);
        }
        all
    })
}

fn pieces() -> impl Strategy<Value = (usize, usize)> {
    let piece = prop_oneof![Just(usize::MAX), 1_usize..5000];
    let chunk = prop_oneof![Just(1_usize << 20), Just(256 << 10), 100_usize..100_000, 1_usize..100];
    (piece, chunk)
}

/// Bits, the first one lowest in its byte.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn number(&mut self, number: usize, count: usize) {
        self.0.extend((0..count).map(|bit| number >> bit & 1 == 1));
    }

    /// A Huffman code: its first bit is its highest.
    fn code(&mut self, code: usize, count: usize) {
        self.0.extend((0..count).rev().map(|bit| code >> bit & 1 == 1));
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, &bit)| u8::from(bit) << at).sum();
        self.0.chunks(8).map(byte).collect()
    }
}

/// Lengths of codes that use up all there are: a tree that grows by splitting its leaves.
fn tree(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<Index>(), 0..most).prop_map(|splits| {
        let mut leaves = vec![0_u8];
        for split in splits {
            let at = split.index(leaves.len());
            if leaves[at] < 15 {
                leaves[at] += 1;
                leaves.push(leaves[at]);
            }
        }
        leaves
    })
}

/// Lengths for all symbols of an alphabet; the leaves go to symbols anywhere, or, where `change` says so, not quite.
fn lengths(symbols: usize, needed: Option<usize>) -> impl Strategy<Value = Vec<u8>> {
    let change = prop_oneof![8 => Just(None), 1 => (any::<Index>(), 0_u8..16).prop_map(Some)];
    let order = Just((0..symbols).collect::<Vec<_>>()).prop_shuffle();
    (tree(symbols), order, change).prop_map(move |(leaves, mut order, change)| {
        if let Some(needed) = needed {
            let at = order.iter().position(|&symbol| symbol == needed).expect("one of them");
            order.swap(0, at);
        }
        let mut lengths = vec![0; symbols];
        for (&symbol, &length) in order.iter().zip(&leaves) {
            lengths[symbol] = length;
        }
        if let Some((at, length)) = change {
            lengths[at.index(symbols)] = length;
        }
        lengths
    })
}

/// The header of a block with codes of its own.
fn header_with(bits: &mut Bits, last: bool, lengths: &[u8], distances: &[u8]) {
    bits.number(0b100 | usize::from(last), 3);
    bits.number(lengths.len() - 257, 5);
    bits.number(distances.len() - 1, 5);
    bits.number(15, 4);
    // Code lengths 0 to 15 take four bits each, which leaves none for repetitions; the order is RFC 1951's.
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
        bits.number(if symbol < 16 { 4 } else { 0 }, 3);
    }
    for &length in lengths.iter().chain(distances) {
        bits.code(length.into(), 4);
    }
}

/// One block with codes of its own, and anything behind its header.
fn block_with(lengths: &[u8], distances: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut bits = Bits::default();
    header_with(&mut bits, true, lengths, distances);
    for &byte in tail {
        bits.number(byte.into(), 8);
    }
    bits.bytes()
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(any::<u8>(), 0..3000);
    (lengths(286, Some(256)), lengths(30, None), tail)
        .prop_map(|(lengths, distances, tail)| block_with(&lengths, &distances, &tail))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_was_deflated((data, level, (piece, chunk)) in (data(), 0_u32..=9, pieces())) {
        let data = &data[..data.len().min(MOST)];
        let stream = deflate(data, level);
        prop_assert!(matches!(oracle(&stream), Oracle::Data(seen, _) if seen == data));
        agree(&stream, piece, chunk)?;
    }

    #[test]
    fn what_was_deflated_and_damaged(
        (data, level, (piece, chunk)) in (data(), 0_u32..=9, pieces()),
        flips in prop::collection::vec((any::<Index>(), 0_u8..8, any::<bool>()), 1..4),
        cut in any::<Option<Index>>(),
    ) {
        let mut stream = deflate(&data[..data.len().min(100_000)], level);
        if let Some(cut) = cut {
            stream.truncate(cut.index(stream.len()));
        }
        for (at, bit, head) in flips {
            // Half of them in the first block's header, where they do most.
            let end = if head { stream.len().min(80) } else { stream.len() };
            if end > 0 {
                stream[at.index(end)] ^= 1 << bit;
            }
        }
        agree(&stream, piece, chunk)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn codes_of_all_shapes(stream in block(), (piece, chunk) in pieces()) {
        agree(&stream, piece, chunk)?;
    }

    #[test]
    fn anything(stream in prop::collection::vec(any::<u8>(), 0..400), (piece, chunk) in pieces()) {
        agree(&stream, piece, chunk)?;
    }
}

#[test]
fn a_distance_does_not_reach_into_the_member_before() {
    // One block with the fixed codes: a match of length 3 at distance 1, before any byte.
    let mut bits = Bits::default();
    bits.number(0b011, 3);
    bits.code(1, 7);
    bits.code(0, 5);
    bits.code(0, 7);
    let first = member(&deflate(b"abc", 6), b"abc");
    let error = ours(&[&first[..], &member(&bits.bytes(), b"ccc")].concat(), usize::MAX, 1000).expect_err("refused");
    assert_eq!(error.to_string(), "the gzip stream is damaged: a distance reaches back before the start");
}

/// Lengths of so many codes, zero but for some.
fn only(symbols: usize, some: &[(usize, u8)]) -> Vec<u8> {
    let mut lengths = vec![0; symbols];
    for &(symbol, length) in some {
        lengths[symbol] = length;
    }
    lengths
}

#[test]
fn odd_codes() -> Result<(), TestCaseError> {
    let (ending, full) = ([(256, 1)], [(97, 1), (256, 2), (257, 2)]);
    let lengths = [
        (257, &ending[..], true),
        (257, &[(256, 2)], false),
        (258, &[(256, 2), (257, 2)], false),
        (257, &[(97, 1), (98, 1)], false),
        (286, &full, true),
        (287, &full, false),
        (288, &full, false),
    ];
    for (symbols, some, valid) in lengths {
        // The end, at once: its code is 0 or 10.
        let tail = u8::from(some == full);
        let stream = block_with(&only(symbols, some), &[0], &[tail, 0, 0]);
        assert_eq!(matches!(oracle(&stream), Oracle::Data(..)), valid, "{some:?} of {symbols}");
        agree(&stream, usize::MAX, 1000)?;
    }
    let distances = [
        (1, &[][..], true),
        (1, &[(0, 1)], true),
        (1, &[(0, 2)], false),
        (30, &[(29, 1)], true),
        (30, &[(28, 2), (29, 2)], false),
        (31, &[(0, 1)], false),
    ];
    for (symbols, some, valid) in distances {
        let stream = block_with(&only(258, &full), &only(symbols, some), &[1, 0, 0]);
        assert_eq!(matches!(oracle(&stream), Oracle::Data(..)), valid, "{some:?} of {symbols}");
        agree(&stream, usize::MAX, 1000)?;
    }
    Ok(())
}

#[test]
fn a_block_cut_off_that_could_not_go_on_well() -> Result<(), TestCaseError> {
    // No code for any code length: zlib-rs reads on, and finds no code for the block's end.
    let mut none = Bits::default();
    none.number(0b101, 3);
    none.number(0, 5 + 5 + 4 + 4 * 3);
    // The first code length repeats the one before; how often is cut off.
    let mut repeated = Bits::default();
    repeated.number(0b101, 3);
    repeated.number(0, 5 + 5);
    repeated.number(6, 4);
    for length in [1, 0, 0, 1, 0, 0, 0, 0, 0, 0] {
        repeated.number(length, 3);
    }
    repeated.code(1, 1);
    for bits in [none, repeated] {
        let stream = bits.bytes();
        assert!(matches!(oracle(&stream), Oracle::EndsEarly));
        agree(&stream, usize::MAX, 1000)?;
    }
    Ok(())
}

#[test]
fn blocks_of_all_kinds_in_turn() -> Result<(), TestCaseError> {
    let mut bits = Bits::default();
    for byte in 0..200_u8 {
        // Codes of their own: the byte, a match of length 3 at distance 1, the end; others in every block.
        header_with(&mut bits, false, &only(258, &[(byte.into(), 1), (256, 2), (257, 2)]), &[1]);
        bits.code(0, 1);
        bits.code(0b11, 2);
        bits.code(0, 1);
        bits.code(0b10, 2);
        // The fixed codes: a byte below 144, the same match, the end.
        bits.number(0b010, 3);
        bits.code(0x30 + usize::from(byte % 144), 8);
        bits.code(1, 7);
        bits.code(0, 5);
        bits.code(0, 7);
        // The byte as it is.
        bits.number(0b000, 3);
        bits.number(0, bits.0.len().next_multiple_of(8) - bits.0.len());
        bits.number(1, 16);
        bits.number(0xfffe, 16);
        bits.number(byte.into(), 8);
    }
    bits.number(0b011, 3);
    bits.code(0, 7);
    let stream = bits.bytes();
    let expected: Vec<u8> =
        (0..200).flat_map(|byte| [[byte; 4], [byte % 144; 4]].concat().into_iter().chain([byte])).collect();
    assert!(matches!(oracle(&stream), Oracle::Data(data, _) if data == expected));
    for (piece, chunk) in [(usize::MAX, 1 << 20), (usize::MAX, 100), (1, 7)] {
        agree(&stream, piece, chunk)?;
    }
    Ok(())
}

#[test]
fn the_longest_distance_from_one_buffer_into_the_next() -> Result<(), TestCaseError> {
    let far = 1 << 15;
    let mut bits = Bits::default();
    // The window's bytes as they are, in two blocks because one holds less.
    let window: Vec<u8> = (0..far).map(|at| (at * at / 7) as u8).collect();
    for half in window.chunks(far / 2) {
        bits.number(0, 8);
        bits.number(half.len(), 16);
        bits.number(!half.len() & 0xffff, 16);
        half.iter().for_each(|&byte| bits.number(byte.into(), 8));
    }
    // With the fixed codes: 300 times 258 bytes from as far back as can be.
    bits.number(0b011, 3);
    for _ in 0..300 {
        bits.code(0b1100_0101, 8);
        bits.code(29, 5);
        bits.number(8191, 13);
    }
    bits.code(0, 7);
    let stream = bits.bytes();
    assert!(matches!(oracle(&stream), Oracle::Data(data, _) if data.len() == far + 300 * 258));
    for chunk in [1, 999, far - 1, far, far + 1, far + 200, 2 * far, 2 * far + 100, 3 * far, 1 << 20] {
        agree(&stream, usize::MAX, chunk)?;
    }
    Ok(())
}
