//! Compressed erofs images, read back by a reader of the tests' own, and by Debian's fsck.erofs where it can.

mod erofs_support;

use erofs_support::back;
use erofs_support::build::{self, Built, Item, Part, build, bytes, compress, request};
use erofs_support::fsck;
use erofs_support::items::text;
use erofs_support::read::{Found, read};
use ocifast_core::error::{Code, Error};
use ocifast_core::output::WriteRequest;
use ocifast_core::output::erofs::{self, Compression};
use ocifast_core::read::Format;
use proptest::collection::vec;
use proptest::prelude::*;

const KINDS: [(&str, Option<i32>, usize); 7] = [
    ("lz4", None, 4096),
    ("lz4", None, 65_536),
    ("lz4", None, 1 << 20),
    ("zstd", None, 4096),
    ("zstd", Some(1), 16_384),
    ("zstd", Some(9), 65_536),
    ("zstd", Some(3), 1 << 20),
];

/// The image, compressed every way, holds the tree.
fn check(built: &Built) -> Vec<Found> {
    let expected = built.dump();
    let each = KINDS.map(|(name, level, cluster)| {
        let compression = Compression::parse(name, level, cluster).expect("a compression");
        let (image, path) = compress(built, compression, 2);
        let found = read(&image);
        for (expected, seen) in expected.lines().zip(found.dump.lines()) {
            assert_eq!(expected, seen, "{name} {cluster}");
        }
        assert_eq!(expected.len(), found.dump.len());
        back::same(&image, Format::Erofs, &expected);
        assert!(found.unused_blocks <= 1);
        if name == "lz4" {
            fsck(&path);
        }
        found
    });
    each.into()
}

#[test]
fn nothing_to_compress() {
    check(&build(&[]));
    check(&build(&[vec![Item::file("empty", ""), Item::directory("d"), Item::symlink("s", "t")]]));
}

#[test]
fn sizes_around_blocks_pieces_and_what_fits_behind_an_inode() {
    let mut sizes: Vec<usize> = vec![1, 2, 100, 1000, 3000, 4031, 4032, 4033, 4095, 4096, 4097, 5000, 8191, 8192, 8193];
    for piece in [16 << 10, 128 << 10, 1 << 20] {
        sizes.extend([
            piece - 4097,
            piece - 1,
            piece,
            piece + 1,
            piece + 4095,
            piece + 4096,
            2 * piece,
            2 * piece + 77,
        ]);
    }
    let mut layer = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        let seed = seed as u64;
        layer.push(Item::file(format!("text-{size}"), text(seed, size)));
        layer.push(Item::file(format!("zero-{size}"), vec![0; size]).mtime(1, 1));
        layer.push(Item::file(format!("random-{size}"), bytes(seed, size)));
        layer.push(Item::file(format!("with-{size}"), text(seed, size)).xattr("user.a", text(seed, 400)));
        // Compressible pieces and others in one file.
        let half = size / 2;
        layer.push(Item::file(format!("mixed-{size}"), [bytes(seed, half), text(seed, size - half)].concat()));
        layer.push(Item::file(format!("dexim-{size}"), [text(seed, half), bytes(seed, size - half)].concat()));
    }
    for (found, (_, _, cluster)) in check(&build(&[layer])).iter().zip(KINDS) {
        let layout = |path: &str| found.inodes[path].layout;
        assert_eq!((layout("/random-1048576"), layout("/random-5000"), layout("/text-1")), (0, 2, 2));
        // All of a file of zeros is behind its inode.
        assert_eq!((layout("/zero-3000"), layout("/zero-8192"), found.inodes["/zero-8192"].data), (1, 1, 0));
        if cluster > 4096 {
            assert_eq!((layout("/text-1048576"), layout("/mixed-1048576")), (1, 1), "{cluster}");
        }
    }
}

/// What is told while an image is written; the call numbered `refused` says no.
fn reports(
    built: &Built,
    compression: Compression,
    threads: usize,
    refused: usize,
) -> (Vec<(u64, u64)>, Result<(), Code>) {
    let mut told = Vec::new();
    let path = built.folder.path().join("reported.erofs");
    let progress = Box::new(|done, total| {
        told.push((done, total));
        if told.len() == refused { Err(Error::new(Code::Cancelled, "no more")) } else { Ok(()) }
    });
    let (options, progress) =
        (erofs::Options { compression: Some(compression), whole_blocks: false }, Some(progress as _));
    let common = build::options();
    let request = request(&built.tree, &*built.store, &path, &common);
    let written = erofs::write(WriteRequest { options, threads, progress, ..request });
    std::fs::remove_file(&path).expect("a file");
    (told, written.map(drop).map_err(|error| error.code))
}

#[test]
fn progress_counts_the_bytes_of_all_contents() {
    const MIB: u64 = 1 << 20;
    let hole =
        Item::sparse("sparse", vec![Part::Data(bytes(2, 4096)), Part::Hole(64 << 20), Part::Data(bytes(3, 8192))]);
    let large = Item::file("large", text(1, 11 << 20));
    let layer = vec![large, hole, Item::file("small", "12345"), Item::file("z-empty", "")];
    let built = build(&[layer, vec![Item::file("gone", bytes(4, 100_000))], vec![Item::whiteout(".", "gone")]]);
    let total = 11 * MIB + 12_288 + 5;
    for threads in [1, 2, 5] {
        let compression = Compression::parse("lz4", None, 65_536).expect("a compression");
        let expected = [(0, total), (4 * MIB, total), (8 * MIB, total), (total, total)];
        assert_eq!(reports(&built, compression, threads, usize::MAX), (expected.to_vec(), Ok(())));
        // Whoever is told may end the work, at the beginning, on the way and at the end.
        for refused in 1..=4 {
            let (told, ended) = reports(&built, compression, threads, refused);
            assert_eq!((&told[..], ended), (&expected[..refused], Err(Code::Cancelled)));
        }
    }
}

#[test]
fn a_large_file() {
    let large = [text(1, 5_000_000), bytes(2, 3_000_000), vec![0; 9_000_000], text(3, 100_001)].concat();
    for found in check(&build(&[vec![Item::file("large", large), Item::file("next", text(4, 10_000))]])) {
        assert!(found.inodes["/large"].data < 3000, "{}", found.inodes["/large"].data);
    }
}

#[test]
fn links_and_holes_and_attributes() {
    use Part::{Data, Hole};
    let layer = vec![
        Item::file("a", text(1, 50_000)).xattr("user.large", bytes(1, 60_000)),
        Item::link("b", "a"),
        Item::sparse("holes", vec![Hole(1 << 20), Data(text(2, 10_000)), Hole(1 << 20), Data(text(3, 7))]),
        Item::sparse("only-holes", vec![Hole(1 << 20)]),
        Item::sparse("inside", vec![Data(text(4, 5000)), Hole(1000), Data(text(5, 20_000))]),
        (0..60).fold(Item::file("many", text(6, 3000)), |file, index| file.xattr(&format!("user.{index}"), "1")),
        (0..300)
            .fold(Item::file("more", text(7, 9000)), |file, index| file.xattr(&format!("user.{index}"), "23456789")),
    ];
    for found in check(&build(&[layer])) {
        let layouts = ["/holes", "/only-holes", "/inside"].map(|path| found.inodes[path].layout);
        assert_eq!(layouts, [4, 4, 1]);
    }
}

#[test]
fn what_was_deleted_is_not_in_it() {
    let secret = b"a secret that a later layer deletes ".repeat(1000);
    let lower = vec![Item::file("gone", [bytes(1, 5000), secret].concat()), Item::file("kept", text(1, 9000))];
    let built = build(&[lower, vec![Item::whiteout(".", "gone")]]);
    let (image, _) = compress(&built, Compression::parse("zstd", None, 65_536).expect("a compression"), 2);
    assert!(image.len() < 5 * 4096, "{}", image.len());
}

#[test]
fn threads_change_nothing() {
    let layer =
        (0..200).map(|seed| Item::file(format!("{seed}"), text(seed, (seed as usize * 7919) % 300_000))).collect();
    let built = build(&[layer]);
    for name in ["lz4", "zstd"] {
        let compression = Compression::parse(name, None, 65_536).expect("valid");
        let image = |threads| compress(&built, compression, threads).0;
        let one = image(1);
        assert!(one == image(2) && one == image(7), "{name}");
    }
}

#[test]
fn settings_that_there_are_not() {
    let table = [
        ("gzip", None, 65_536, "erofs has no compression gzip"),
        ("lz4", Some(3), 65_536, "erofs has no compression lz4 of level 3"),
        ("zstd", Some(23), 65_536, "erofs has no compression zstd of level 23"),
        ("zstd", None, 2048, "a physical cluster of erofs has 4096 to 1048576 bytes, a power of two"),
        ("zstd", None, 5000, "a physical cluster of erofs has 4096 to 1048576 bytes, a power of two"),
        ("lz4", None, 2 << 20, "a physical cluster of erofs has 4096 to 1048576 bytes, a power of two"),
    ];
    for (name, level, cluster, message) in table {
        let error = Compression::parse(name, level, cluster).expect_err(message);
        assert_eq!((error.code, &*error.message), (Code::Internal, message));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_content_comes_back(
        files in vec((vec((0..4u8, 0..60_000usize), 0..6), 0..600usize), 1..12),
        kind in 0..KINDS.len(),
    ) {
        let mut layer = Vec::new();
        for (number, (parts, attributes)) in files.iter().enumerate() {
            let parts = parts.iter().enumerate().map(|(index, &(kind, length))| {
                let seed = (number * 10 + index) as u64;
                match kind {
                    0 => Part::Data(bytes(seed, length)),
                    1 => Part::Data(vec![0; length]),
                    2 if number % 3 == 0 => Part::Hole(length as u64),
                    _ => Part::Data(text(seed, length)),
                }
            });
            let file = Item::sparse(format!("{number}"), parts.collect());
            layer.push(if number % 2 == 0 { file } else { file.xattr("user.x", text(1, *attributes)) });
        }
        let built = build(&[layer]);
        let (name, level, cluster) = KINDS[kind];
        let (image, path) = compress(&built, Compression::parse(name, level, cluster).expect("a compression"), 3);
        prop_assert_eq!(read(&image).dump, built.dump());
        if name == "lz4" {
            fsck(&path);
        }
    }
}
