//! Restart points: what they give is what one thread gives, whatever is in their file.

mod ahead_support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use ahead_support::{Random, in_order, read_all, side_by_side};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use ocifast_core::decompress::{Decompressor, Recorder, Restart};
use ocifast_core::digest::{Algorithm, Digest, Hasher};
use ocifast_core::error::Code;
use ocifast_core::limits::Limits;

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::new(level));
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

fn digest(blob: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(blob);
    hasher.finish()
}

/// The file of a blob's points, said to be those of another; `None` when there are none.
fn note(blob: &[u8], chunk: usize, said: &[u8]) -> Option<Vec<u8>> {
    let file = tempfile::tempfile().expect("a file");
    let mut layer = Decompressor::new(blob, &Limits::default());
    layer.note_points(Recorder::new(file.try_clone().expect("cloned")));
    let mut out = vec![0; chunk];
    while layer.read_chunk(&mut out).expect("a good stream") > 0 {}
    let recorder = layer.take_points()?;
    recorder.finish(&digest(said), said.len() as u64).expect("written").then(|| {
        let mut bytes = vec![0; file.metadata().expect("told").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    })
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

fn open(points: &[u8], blob: &[u8]) -> Result<Restart, String> {
    Restart::open(file_of(points), &digest(blob), blob.len() as u64).map_err(|error| {
        assert_eq!(error.code, Code::Io);
        error.to_string()
    })
}

/// Asserts that points change nothing; returns how many parts were taken, and whether the points were found wrong.
fn agree(what: &str, blob: &[u8], points: &[u8], limits: &Limits) -> (u64, bool) {
    let expected = in_order(blob, 256 << 10, limits);
    let (mut taken, mut wrong) = (0, false);
    for (helpers, piece) in [(0, 1 << 20), (1, 1 << 20), (3, 100_000)] {
        let restart = open(points, blob).expect("sound");
        let (seen, ahead) = side_by_side(blob, helpers, (piece, 256 << 10), limits, Some(restart));
        assert_eq!(seen.1, expected.1, "{what} with {helpers}");
        assert!(seen.0 == expected.0, "{what} with {helpers}: {} bytes of {}", seen.0.len(), expected.0.len());
        (taken, wrong) = (taken.max(ahead.taken()), wrong || ahead.is_wrong());
    }
    (taken, wrong)
}

/// The same with a checksum that is right.
fn signed(mut points: Vec<u8>) -> Vec<u8> {
    let end = points.len() - 32;
    let sum = digest(&points[..end]);
    let hex = sum.as_str().trim_start_matches("sha256:");
    for (index, byte) in points[end..].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).expect("hex");
    }
    points
}

#[test]
fn points_change_nothing_but_who_inflates() {
    let mut random = Random(1);
    let data = random.bytes(24 << 20);
    for level in [0, 2, 6] {
        let blob = gzip(&data, level);
        let points = note(&blob, 256 << 10, &blob).expect("points");
        let (taken, wrong) = agree(&format!("level {level}"), &blob, &points, &Limits::default());
        assert!(taken > 1 && !wrong, "{taken} parts");
    }
    let members = [gzip(&data[..1 << 20], 1).repeat(9), gzip(&data, 1), gzip(&data[..100_000], 6).repeat(40)].concat();
    let points = note(&members, 256 << 10, &members).expect("points");
    let (taken, wrong) = agree("members", &members, &points, &Limits::default());
    assert!(taken > 1 && !wrong, "{taken} parts");
    for layer_bytes in [5_000_000, 12_345_678, 30_000_000] {
        agree("bytes", &members, &points, &Limits { layer_bytes, ..Limits::default() });
    }
}

#[test]
fn short_streams_have_none() {
    let mut random = Random(2);
    let data = random.bytes(1 << 20);
    assert_eq!(note(&gzip(&data, 6), 256 << 10, &data), None);
    assert_eq!(note(&zstd::encode_all(&data[..], 1).expect("in memory"), 256 << 10, &data), None);
    assert_eq!(note(&[0; 1024], 256 << 10, &data), None);
}

#[test]
fn points_are_noted_of_what_was_inflated_ahead_too() {
    let mut random = Random(3);
    let blob = gzip(&random.bytes(300_000), 1).repeat(60);
    let alone = note(&blob, 256 << 10, &blob).expect("points");
    assert!(open(&alone, &blob).is_ok());
    let seen = read_all(Decompressor::new(&blob[..], &Limits::default()), 1 << 20);
    assert_eq!(seen.1, None);
}

#[test]
fn what_is_damaged_old_or_foreign_is_refused() {
    let mut random = Random(4);
    let blob = gzip(&random.bytes(12 << 20), 6);
    let points = note(&blob, 256 << 10, &blob).expect("points");
    assert!(open(&points, &blob).is_ok());
    for at in (0..points.len()).step_by(points.len() / 50) {
        let mut damaged = points.clone();
        damaged[at] ^= 1;
        assert!(open(&damaged, &blob).is_err(), "byte {at}");
        damaged.clone_from(&points);
        damaged.insert(at, 7);
        assert!(open(&damaged, &blob).is_err(), "before byte {at}");
        assert!(open(&points[..at], &blob).is_err(), "up to byte {at}");
    }
    let other = gzip(&random.bytes(1000), 1);
    assert_eq!(
        open(&points, &other).err().expect("refused"),
        "the restart points are damaged: they are of another blob"
    );
    let mut old = points.clone();
    let version = points.len() - 32 - 40 + 8;
    old[version] += 1;
    let refused = open(&signed(old), &blob).err().expect("refused");
    assert_eq!(refused, "the restart points are damaged: they are of another version");
}

#[test]
fn lies_are_found_and_give_no_wrong_byte() {
    let mut random = Random(5);
    let data = random.bytes(12 << 20);
    let blob = gzip(&data, 6);
    let points = note(&blob, 256 << 10, &blob).expect("points");
    // Every byte may be another one, with a checksum that says it is right: windows, places, numbers.
    let mut found = 0;
    let rows = points.len() - 32 - 40 - 71 - 3 * 40;
    for at in (0..rows).step_by(rows / 40).chain((rows..points.len() - 32).step_by(2)) {
        let mut lie = points.clone();
        lie[at] ^= 1 << random.next(8);
        let lie = signed(lie);
        if open(&lie, &blob).is_ok() {
            found += u32::from(agree(&format!("byte {at}"), &blob, &lie, &Limits::default()).1);
        }
    }
    assert!(found > 10, "{found} lies were noticed");
    // Those of another blob, of which the places are the same and the windows are not.
    let (one, two) = (gzip(&data, 0), gzip(&random.bytes(12 << 20), 0));
    let lie = note(&two, 256 << 10, &one).expect("points");
    assert!(agree("windows", &one, &lie, &Limits::default()).1);
    let lie = note(&gzip(&data[1 << 20..], 6), 256 << 10, &blob).expect("points");
    assert!(agree("places", &blob, &lie, &Limits::default()).1);
}
