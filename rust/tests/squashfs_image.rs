//! Trees of every kind as squashfs images, read back by a reader of the tests' own. (The kernel and the tools of others
//! read them in the tests of the Python package.)

mod squashfs_support;

use std::sync::Arc;

use ocifast_core::contents::Covers;
use ocifast_core::entry::Kind;
use ocifast_core::error::{Code, Error};
use ocifast_core::output::Loss;
use ocifast_core::output::WriteRequest;
use ocifast_core::output::squashfs::{Compression, write};
use ocifast_core::read::Format;
use proptest::collection::vec;
use proptest::prelude::*;
use squashfs_support::back;
use squashfs_support::items::{Item, Part, bytes, text};
use squashfs_support::read::{Found, read};
use squashfs_support::{Built, OPTIONS, Options, build, build_under, request, try_build, zstd};

const KINDS: [(&str, Option<i32>, usize, bool); 11] = [
    ("zstd", None, 1 << 17, true),
    ("zstd", Some(1), 4096, true),
    ("zstd", Some(19), 1 << 20, false),
    ("gzip", None, 1 << 17, true),
    ("gzip", Some(9), 4096, false),
    ("xz", None, 1 << 16, true),
    ("lz4", None, 1 << 17, true),
    ("lz4", None, 4096, false),
    ("lz4hc", None, 1 << 17, true),
    ("none", None, 1 << 17, true),
    ("none", None, 4096, false),
];

fn compression((name, level, block, packs_tails): (&str, Option<i32>, usize, bool)) -> Compression {
    Compression::parse(name, level, block, packs_tails, 3).expect("a compression")
}

/// The image holds the tree that it was made from.
fn check(built: &Built) -> Found {
    let found = read(&built.image());
    let (expected, seen) = (built.dump(), &found.dump);
    for (expected, seen) in expected.lines().zip(seen.lines()) {
        assert_eq!(expected, seen);
    }
    assert_eq!(expected.len(), seen.len());
    back::same(&built.image(), Format::Squashfs, &expected);
    assert_eq!(built.bytes(), built.image().len() as u64);
    found
}

/// The same in every compression.
fn check_all(layers: &[Vec<Item>]) -> Vec<Found> {
    KINDS.map(|kind| check(&build(layers, &compression(kind)))).into()
}

#[test]
fn an_empty_image() {
    for layers in [&[][..], &[vec![]], &[vec![], vec![], vec![]]] {
        for found in check_all(layers) {
            assert_eq!(found.dump, "/ directory 0755 0 0 0.000000000 - - - -\n");
        }
        assert_eq!(build(layers, &zstd(1 << 17)).bytes(), 2 * 4096);
    }
}

#[test]
fn every_type_owner_mode_and_time() {
    let mut layer = vec![
        Item::directory("./").mode(0o1751).owner(1, 2).mtime(0, 0),
        Item::directory("d").mode(0o2775).owner(65535, 65535),
        Item::directory("e").mode(0).owner(65536, 0),
        Item::file("setuid", "x").mode(0o6755).owner(0, u32::MAX),
        Item::file("none", "").mode(0).owner(u32::MAX, 0),
        Item::file("late", "x").mtime(i64::from(u32::MAX), 0),
        Item::new("fifo", Kind::Fifo),
        Item::symlink("short", "x"),
        Item::symlink("dangling", "/no/such\u{e9}"),
        Item::symlink("longest", vec![b'/'; 4095]),
        Item::symlink("with", "x").xattr("trusted.l", "1"),
        Item::new("fifo-with", Kind::Fifo).xattr("trusted.f", "1"),
        Item::new("char-with", Kind::CharDevice { major: 1, minor: 3 }).xattr("trusted.c", "1"),
        Item::directory("d/with").xattr("user.d", "1"),
    ];
    for (name, major, minor) in [("small", 1, 3), ("middle", 259, 255), ("large", 8, 256), ("max", 4095, (1 << 20) - 1)]
    {
        layer.push(Item::new(format!("{name}-c"), Kind::CharDevice { major, minor }));
        layer.push(Item::new(format!("{name}-b"), Kind::BlockDevice { major, minor }));
    }
    let built = build(&[layer.clone()], &zstd(1 << 17));
    assert_eq!(built.written.losses, []);
    for found in check_all(&[layer]) {
        let kind = |path: &str| found.inodes[path].kind;
        assert_eq!([kind("/d"), kind("/d/with"), kind("/short"), kind("/with"), kind("/fifo-with")], [1, 8, 3, 10, 13]);
    }
}

#[test]
fn sizes_around_blocks() {
    for kind in KINDS {
        let block = kind.2;
        let mut layer = Vec::new();
        for size in [0, 1, 2, 100, block - 1, block, block + 1, 2 * block - 1, 2 * block, 3 * block + 77] {
            let seed = size as u64;
            layer.push(Item::file(format!("text-{size}"), text(seed, size)));
            layer.push(Item::file(format!("zero-{size}"), vec![0; size]));
            layer.push(Item::file(format!("random-{size}"), bytes(seed + 9, size)));
            let half = size / 2;
            layer.push(Item::file(format!("mixed-{size}"), [bytes(seed, half), text(seed, size - half)].concat()));
            layer.push(Item::file(format!("ends-{size}"), [text(seed, half), vec![0; size - half]].concat()));
        }
        let found = check(&build(&[layer], &compression(kind)));
        let file = |name: &str, size: usize| &found.inodes[&format!("/{name}-{size}")];
        assert_eq!(file("zero", 2 * block).blocks, [0, 0]);
        assert_eq!(file("zero", 2 * block).kind, 9, "its holes are counted");
        assert_eq!(file("random", block).blocks, [block as u64 | 1 << 24]);
        assert_eq!(file("text", block).blocks[0] >> 24, u64::from(kind.0 == "none"));
        assert_eq!(found.fragments > 0, kind.3);
        assert_eq!(file("text", block + 1).blocks.len(), if kind.3 { 1 } else { 2 });
    }
}

#[test]
fn names() {
    let mut layer = vec![Item::directory("order")];
    for name in ["!", "+", "-", ".\u{1}", ".-", "..\u{1}", "...", "..a", ".a", "0", "~", "\u{e9}"] {
        layer.push(Item::file(format!("order/{name}"), name));
    }
    layer.push(Item::file([b"order/".as_slice(), &[0xff, 0xfe, b'\n', 0x80]].concat(), "not UTF-8"));
    for length in [1, 254, 255] {
        layer.push(Item::file("n".repeat(length), length.to_string()));
    }
    let deep = ["d".repeat(200).as_str(); 40].join("/");
    layer.push(Item::file(format!("{deep}/file"), "deep"));
    check_all(&[layer]);
}

#[test]
fn directories_of_every_length() {
    let mut layer = Vec::new();
    // Over the names of one header, the bytes of a block, and what a short inode counts.
    for count in (250..262).chain([500, 3000, 5000]) {
        for index in 0..count {
            layer.push(Item::new(format!("d{count}/{index:08}"), Kind::Fifo));
        }
    }
    for count in (20..40).chain([249, 250, 251, 1000]) {
        for index in 0..count {
            layer.push(Item::new(format!("l{count}/{}{index:03}", "n".repeat(252)), Kind::Fifo));
        }
    }
    let found = check(&build(&[layer], &zstd(1 << 17)));
    let indexes = |path: &str| (found.inodes[path].kind, found.inodes[path].index.len());
    assert_eq!((indexes("/d250"), indexes("/l20")), ((1, 0), (1, 0)));
    let (kind, count) = indexes("/l1000");
    assert!(kind == 8 && count >= 30, "{count}");
}

#[test]
fn two_hundred_thousand_names_in_one_directory() {
    // Numbers of inodes too far apart for one header, and names that are all of one group.
    let mut layer: Vec<Item> = (0..200_000).map(|index| Item::file(format!("d/{index}"), format!("{index}"))).collect();
    layer.extend((0..3).map(|index| Item::link(format!("links/{index}"), format!("d/{}", index * 90_000))));
    let built = build(&[layer], &zstd(1 << 17));
    assert_eq!(check(&built).inodes.len(), 200_006);
}

#[test]
fn hard_links() {
    let lower = vec![
        Item::file("a", bytes(1, 5000)),
        Item::link("b", "a"),
        Item::link("d/c", "b"),
        Item::file("gone", bytes(2, 5000)),
        Item::link("kept", "gone"),
        Item::symlink("s", "a"),
        Item::link("s2", "s"),
        Item::new("fifo", Kind::Fifo),
        Item::link("fifo2", "fifo"),
    ];
    let upper = vec![Item::whiteout(".", "gone"), Item::link("d/kept", "kept"), Item::file("b", "new")];
    for found in check_all(&[lower, upper]) {
        assert_eq!((found.inodes["/a"].nlink, found.inodes["/kept"].nlink, found.inodes["/s"].nlink), (2, 2, 2));
        assert_eq!(found.inodes["/a"].reference, found.inodes["/d/c"].reference);
    }
    let many: Vec<Item> = std::iter::once(Item::file("first", "x"))
        .chain((0..70_000).map(|index| Item::link(format!("d/{index}"), "first")))
        .collect();
    assert_eq!(check(&build(&[many], &zstd(1 << 17))).inodes["/first"].nlink, 70_001);
}

#[test]
fn attributes_stand_once() {
    let mut layer = vec![
        Item::directory("./").xattr("user.root", "r"),
        Item::file("one", "x").xattr("user.one", "1"),
        Item::file("empty", "x").xattr("user.empty", ""),
        Item::file("binary", bytes(3, 9000)).xattr("trusted.b", [0, 255, 0, 1]),
        Item::file("capable", "x").xattr("security.capability", bytes(5, 20)),
        Item::file("longest-name", "x").xattr(&format!("user.{}", "n".repeat(250)), "1"),
        Item::file("largest", bytes(6, 5000)).xattr("user.large", bytes(7, 65_536)),
        Item::file("largest-too", "x").xattr("user.large", bytes(7, 65_536)).xattr("user.other", bytes(7, 65_536)),
    ];
    for index in 0..300 {
        layer.push(Item::file(format!("label-{index}"), "x").xattr("security.selinux", "system_u:object_r:usr_t:s0\0"));
    }
    for (name, count, length) in [("many", 100, 30), ("more", 400, 100), ("large", 300, 600)] {
        let file = Item::file(name, bytes(8, 4000));
        layer.push((0..count).fold(file, |file, index| file.xattr(&format!("user.{index}"), bytes(index, length))));
    }
    let built = build(&[layer.clone()], &compression(("none", None, 1 << 17, true)));
    assert_eq!(built.written.losses, []);
    // The value of 64 KiB is in the image once.
    assert!(built.bytes() < 400_000, "{}", built.bytes());
    for found in check_all(&[layer]) {
        assert_eq!(found.sets, 12);
    }
}

#[test]
fn what_cannot_be_held_is_said() {
    let layer = vec![
        Item::file("a", "x")
            .mtime(-1, 0)
            .xattr("user.kept", "1")
            .xattr("user.", "1")
            .xattr("system.posix_acl_access", "acl")
            .xattr("user.large", vec![0; 65_537])
            .xattr(&format!("user.{}", "n".repeat(251)), "1"),
        Item::file("b", "x").mtime(1 << 32, 0),
        Item::file("c", "x").mtime(5, 500_000_000),
    ];
    let built = build(&[layer], &zstd(1 << 17));
    let found = read(&built.image());
    let times = ["/a", "/b", "/c"].map(|path| found.inodes[path].mtime);
    assert_eq!(times, [0, u64::from(u32::MAX), 5]);
    assert_eq!(found.inodes["/a"].xattrs.keys().collect::<Vec<_>>(), [b"user.kept"]);
    let class = "squashfs knows no such class of attributes";
    let loss = |kind, paths: &[&str], detail: String| Loss {
        kind,
        detail,
        count: paths.len() as u64,
        paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
    };
    let expected = [
        loss("mtime", &["a", "b"], "squashfs holds times from 1970 to 2106".into()),
        loss("xattr", &["a"], format!("system.posix_acl_access: {class}")),
        loss("xattr", &["a"], format!("user.: {class}")),
        loss("xattr", &["a"], "user.large: its value is longer than 65536 bytes".into()),
        loss("xattr", &["a"], format!("user.{}: its name is longer than 255 bytes", "n".repeat(251))),
        loss("mtime", &["c"], "squashfs holds times in whole seconds".into()),
    ];
    assert_eq!(built.written.losses, expected);
}

#[test]
fn owners_and_groups_share_one_table() {
    let layer = |count: u32| -> Vec<Item> {
        // The root has 0:0.
        (0..count.div_ceil(2))
            .map(|index| Item::file(format!("{index}"), "").owner(2 * index, (2 * index + 1).min(count - 1)))
            .collect()
    };
    let found = check(&build(&[layer(65_535)], &zstd(1 << 17)));
    assert_eq!(found.inodes["/32767"].uid, 65_534);
    let refused = try_build(&[layer(65_536)], &[0], &zstd(1 << 17), &OPTIONS).err().expect("refused");
    assert_eq!(refused.code, Code::OutputUnsupported);
    assert_eq!(refused.message, "squashfs holds 65535 different owners and groups; the image has more");
}

#[test]
fn holes() {
    use Part::{Data, Hole};
    for kind in KINDS {
        let block = kind.2 as u64;
        let data = |blocks: u64| Data(bytes(blocks, (blocks * block) as usize));
        let table: Vec<(&str, Vec<Part>)> = vec![
            ("all", vec![Hole(1 << 22)]),
            ("small", vec![Hole(100)]),
            ("front", vec![Hole(1 << 22), data(1)]),
            ("end", vec![data(1), Hole(1 << 22)]),
            ("end-inside", vec![Data(vec![1; 100]), Hole(1 << 22), Hole(77)]),
            ("middle", vec![data(2), Hole(10 * block), data(1), Hole(block), Data(vec![7; 10])]),
            (
                "unaligned",
                vec![Data(vec![1; 100]), Hole(3 * block), Data(vec![2; 50_000]), Hole(5000), Data(vec![3; 1])],
            ),
            ("pieces", vec![Hole(1000), Hole(block), Hole(block), Data(vec![1; 1]), Hole(0), Data(vec![2; 1])]),
            ("zeros", vec![Hole(block), Data(vec![0; block as usize]), Hole(block), data(1)]),
        ];
        let layer: Vec<Item> = table.iter().map(|(name, parts)| Item::sparse(*name, parts.clone())).collect();
        let found = check(&build(&[layer, vec![Item::file("after", bytes(9, 9000))]], &compression(kind)));
        assert_eq!(found.inodes["/zeros"].sparse, 3 * block);
        assert!(found.inodes["/all"].sparse >= (1 << 22) - block);
    }
}

#[test]
fn five_gibibytes_with_two_blocks_of_data() {
    let parts = vec![Part::Hole(4 << 30), Part::Data(bytes(1, 4096)), Part::Hole(1 << 30), Part::Data(vec![1; 1])];
    let built = build(&[vec![Item::sparse("large", parts)]], &zstd(1 << 17));
    assert!(built.bytes() < 5 * 4096, "{}", built.bytes());
}

#[test]
fn times_are_clamped() {
    let layer = vec![Item::directory("./").mtime(10, 0), Item::file("a", "x").mtime(100, 1)];
    let options = Options { created: 50, clamp_mtime: Some(50) };
    let built = try_build(&[layer], &[0], &zstd(1 << 17), &options).expect("an image");
    let image = built.image();
    let times: Vec<u64> = read(&image).inodes.values().map(|inode| inode.mtime).collect();
    assert_eq!((times, &image[8..12]), (vec![10, 50], &50u32.to_le_bytes()[..]));
    assert_eq!(built.written.losses, []);
}

#[test]
fn equal_files_stand_once() {
    let (large, small) = (text(1, 1 << 20), text(2, 3000));
    let with_tail = [text(3, 1 << 17), vec![1; 50]].concat();
    let other_tail = [text(3, 1 << 17), vec![2; 50]].concat();
    let lower = vec![
        Item::file("a", large.clone()),
        Item::file("b", small.clone()),
        Item::file("gone", large.clone()),
        Item::file("tail", with_tail.clone()),
    ];
    let upper = vec![
        Item::file("d/a", large.clone()),
        Item::file("d/b", small.clone()),
        Item::file("d/tail", with_tail),
        Item::file("d/other", other_tail),
        Item::whiteout(".", "gone"),
    ];
    let found = check(&build(&[lower, upper], &zstd(1 << 17)));
    let place = |path: &str| {
        let inode = &found.inodes[path];
        (inode.start, inode.blocks.clone(), inode.fragment, inode.offset)
    };
    for (one, other) in [("/a", "/d/a"), ("/b", "/d/b"), ("/tail", "/d/tail")] {
        assert_eq!(place(one), place(other));
        assert_ne!(found.inodes[one].reference, found.inodes[other].reference);
    }
    assert_ne!(place("/tail"), place("/d/other"));
}

/// Two strings of 8 bytes with one CRC-32.
fn of_one_checksum() -> [[u8; 8]; 2] {
    let mut known = std::collections::HashMap::new();
    for part in bytes(1, 8 << 20).chunks_exact(8) {
        let part: [u8; 8] = part.try_into().expect("8 bytes");
        let mut checksum = flate2::Crc::new();
        checksum.update(&part);
        if let Some(other) = known.insert(checksum.sum(), part) {
            return [other, part];
        }
    }
    panic!("a million strings and no two of one checksum");
}

#[test]
fn files_of_one_checksum_are_told_apart() {
    let compression = compression(("none", None, 4096, true));
    let [one, other] = of_one_checksum();
    let long = |start: &[u8]| [start, &[7; 3 * 4096 - 8][..]].concat();
    let layer = vec![
        Item::file("a", one),
        Item::file("b", other),
        Item::file("c", long(&one)),
        Item::file("d", long(&other)),
        Item::file("e", long(&other)),
    ];
    let found = check(&build(&[layer], &compression));
    assert_eq!(found.inodes["/d"].start, found.inodes["/e"].start);
}

#[test]
fn what_was_deleted_is_not_in_it() {
    let secret = bytes(1, 500_000);
    let lower = vec![
        Item::file("gone", secret.clone()),
        Item::file("kept", text(1, 9000)),
        Item::file("small", b"a secret that a later layer deletes".to_vec()),
    ];
    let upper = vec![Item::whiteout(".", "gone"), Item::whiteout(".", "small")];
    for kind in KINDS {
        let built = build(&[lower.clone(), upper.clone()], &compression(kind));
        let image = built.image();
        assert!(image.len() < 6 * 4096, "{}", image.len());
        for needle in [&secret[..64], b"a secret that"] {
            assert!(!image.windows(needle.len()).any(|window| window == needle));
        }
    }
}

#[test]
fn neither_threads_nor_the_order_of_arrival_change_anything() {
    let layer = |from: u64| -> Vec<Item> {
        (from..from + 100)
            .map(|seed| Item::file(format!("{seed}"), text(seed % 150, (seed as usize * 7919) % 300_000)))
            .collect()
    };
    let layers = [layer(0), layer(80), layer(160)];
    for name in ["zstd", "lz4", "gzip"] {
        let image = |threads, order: &[usize]| {
            let compression = Compression::parse(name, None, 1 << 16, true, threads).expect("valid");
            try_build(&layers, order, &compression, &OPTIONS).expect("an image").image()
        };
        let one = image(1, &[0, 1, 2]);
        assert!(one == image(2, &[2, 1, 0]) && one == image(5, &[1, 0, 2]), "{name}");
    }
}

#[test]
fn whoever_is_told_may_end_the_work() {
    let layer = (0..60).map(|seed| Item::file(format!("{seed}"), text(seed, 100_000))).collect();
    let built = build(&[layer, vec![Item::file("blocks", text(1, 3 << 20))]], &zstd(1 << 17));
    let all = 6_000_000 + (3 << 20);
    let run = |refused: usize| {
        let path = built.folder.path().join("again");
        let mut told = Vec::new();
        let progress = Box::new(|done: u64, total: u64| {
            assert_eq!(total, all);
            told.push(done);
            if told.len() == refused { Err(Error::new(Code::Cancelled, "no more")) } else { Ok(()) }
        });
        let request = request(&built.tree, &*built.store, &path, &zstd(1 << 17), &OPTIONS);
        let written = write(WriteRequest { progress: Some(progress as _), ..request });
        std::fs::remove_file(&path).expect("a file");
        (told, written.map_err(|error| error.code))
    };
    let (told, written) = run(usize::MAX);
    assert_eq!(written.map(|written| written.bytes), Ok(built.written.bytes));
    assert_eq!((told.first(), told.last()), (Some(&(3 << 20)), Some(&all)));
    assert!(told.is_sorted() && told.len() > 40);
    for refused in [1, 2, told.len() / 2, told.len()] {
        assert_eq!(run(refused), (told[..refused].to_vec(), Err(Code::Cancelled)));
    }
}

#[test]
fn settings_that_there_are_not() {
    let table = [
        ("lzo", None, 65_536, "squashfs has no compression lzo"),
        ("lz4", Some(3), 65_536, "squashfs has no compression lz4 of level 3"),
        ("zstd", Some(23), 65_536, "squashfs has no compression zstd of level 23"),
        ("gzip", Some(0), 65_536, "squashfs has no compression gzip of level 0"),
        ("zstd", None, 2048, "a block of squashfs has 4096 to 1048576 bytes, a power of two"),
        ("zstd", None, 5000, "a block of squashfs has 4096 to 1048576 bytes, a power of two"),
        ("xz", None, 2 << 20, "a block of squashfs has 4096 to 1048576 bytes, a power of two"),
    ];
    for (name, level, block, message) in table {
        let error = Compression::parse(name, level, block, true, 1).expect_err(message);
        assert_eq!((error.code, &*error.message), (Code::Internal, message));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_tree_comes_back(
        layers in vec(vec((0..20u8, 0..8u8, 0..20_000usize, 0..300_000u64, 0..4u8), 0..30), 1..4),
        order in Just([0, 1, 2]).prop_shuffle(),
        kind in 0..KINDS.len(),
        covered in 0..3usize,
    ) {
        let layers: Vec<Vec<Item>> = layers.iter().map(|layer| layer.iter().map(random_item).collect()).collect();
        let order: Vec<usize> = order.into_iter().filter(|&index| index < layers.len()).collect();
        let compression = compression(KINDS[kind]);
        let built = try_build(&layers, &order, &compression, &OPTIONS).expect("an image");
        check(&built);
        prop_assert!(build(&layers, &compression).image() == built.image());
        // Whatever is said of upper layers, true or not, changes when files are compressed, and nothing else.
        let covers: Arc<Covers> = Arc::new(move |layer, path| (layer as usize + path.len() + covered).is_multiple_of(3));
        prop_assert!(build_under(&covers, &layers, &order, &compression).image() == built.image());
    }
}

fn random_item(&(name, kind, size, hole, extra): &(u8, u8, usize, u64, u8)) -> Item {
    let path = if name % 3 == 0 { format!("d{}/{name}", name % 2) } else { format!("{name}") };
    let data = if extra == 3 { text(u64::from(name % 4), size) } else { bytes(u64::from(name), size) };
    let item = match kind {
        0 => Item::symlink(path, data.iter().map(|byte| b'a' + byte % 26).take(1 + size % 4095).collect::<Vec<_>>()),
        1 => Item::directory(path),
        2 => Item::sparse(path, vec![Part::Data(data.clone()), Part::Hole(hole), Part::Data(data)]),
        3 if name % 3 == 0 => Item::whiteout("d0", &name.to_string()),
        3 => Item::whiteout(".", &name.to_string()),
        4 => Item::file(path, text(u64::from(name % 4), size * 20)),
        _ => Item::file(path, data),
    };
    match extra {
        0 => item.xattr("user.x", bytes(size as u64, size % 700)),
        1 => item.xattr("trusted.same", "for all"),
        _ => item,
    }
}
