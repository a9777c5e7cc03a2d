//! Trees of every kind as erofs images, read back by a reader of the tests' own and by Debian's fsck.erofs.

mod erofs_support;

use erofs_support::back;
use erofs_support::build::{Built, Item, Options, Part, build, bytes, options, try_build};
use erofs_support::fsck;
use erofs_support::read::read;
use ocifast_core::entry::Kind;
use ocifast_core::error::Code;
use ocifast_core::output::Loss;
use ocifast_core::read::Format;
use proptest::collection::vec;
use proptest::prelude::*;

/// The image holds the tree that it was made from.
fn check(built: &Built) -> erofs_support::read::Found {
    let found = read(&built.image());
    let (expected, seen) = (built.dump(), &found.dump);
    for (expected, seen) in expected.lines().zip(seen.lines()) {
        assert_eq!(expected, seen);
    }
    assert_eq!(expected.len(), seen.len());
    back::same(&built.image(), Format::Erofs, &expected);
    // An empty block may be needed at the end.
    let dead = found.unused_blocks.saturating_sub(1) * 4096;
    assert!(dead * 100 <= built.bytes(), "{dead} bytes are dead");
    assert_eq!(built.bytes(), built.image().len() as u64);
    fsck(&built.path);
    found
}

#[test]
fn an_empty_image() {
    for layers in [&[][..], &[vec![]], &[vec![], vec![], vec![]]] {
        let built = build(layers);
        assert_eq!(check(&built).dump, "/ directory 0755 0 0 0.000000000 - - - -\n");
        assert_eq!(built.bytes(), 2 * 4096);
    }
}

#[test]
fn every_type_owner_mode_and_time() {
    let device = |path: &str, major, minor| {
        [
            Item::new(format!("{path}-c"), Kind::CharDevice { major, minor }),
            Item::new(format!("{path}-b"), Kind::BlockDevice { major, minor }),
        ]
    };
    let mut layer = vec![
        Item::directory("./").mode(0o1751).owner(1, 2).mtime(-1, 999_999_999),
        Item::directory("d").mode(0o2775).owner(65535, 65535),
        Item::directory("e").mode(0).owner(65536, 0),
        Item::file("setuid", "x").mode(0o6755).owner(0, u32::MAX),
        Item::file("none", "").mode(0).owner(u32::MAX, 0),
        Item::file("early", "x").mtime(-62_135_596_800, 1),
        Item::file("late", "x").mtime(i64::from(u32::MAX) * 16, 999_999_999),
        Item::file("build-time", "x"),
        Item::file("build-time-and-a-nanosecond", "x").mtime(1_700_000_000, 1),
        Item::new("fifo", Kind::Fifo),
        Item::symlink("short", "x"),
        Item::symlink("dangling", "/no/such\u{e9}"),
        Item::symlink("inline", vec![b'a'; 4096 - 32]),
        Item::symlink("block", vec![b'b'; 4096 - 31]),
        Item::symlink("longest", vec![b'/'; 4095]),
    ];
    layer.extend(device("small", 1, 3));
    layer.extend(device("middle", 259, 255));
    layer.extend(device("large", 8, 256));
    layer.extend(device("largest", 4095, (1 << 20) - 1));
    let built = build(&[layer]);
    let found = check(&built);
    let form = |path: &str| found.inodes[path].extended;
    assert!(!form("/build-time") && form("/build-time-and-a-nanosecond") && !form("/d") && form("/e"));
    assert_eq!((found.inodes["/inline"].layout, found.inodes["/block"].layout), (2, 0));
    assert_eq!(built.written.losses, []);
}

#[test]
fn sizes_around_what_fits_behind_an_inode() {
    let mut layer = Vec::new();
    for size in (0..3).chain(3990..4110).chain([8191, 8192, 8193, 12_287, 65_535, 65_536, 65_537, 1 << 20, 3_000_001]) {
        layer.push(Item::file(format!("short-{size}"), bytes(size as u64, size)));
        layer.push(Item::file(format!("long-{size}"), bytes(size as u64 + 1, size)).mtime(5, 5));
        layer.push(
            Item::file(format!("with-{size}"), bytes(size as u64 + 2, size)).xattr("user.a", bytes(size as u64, 20)),
        );
    }
    let found = check(&build(&[layer]));
    // 64 bytes are kept for the inode, as its form is not known while its data arrive.
    assert_eq!(found.inodes["/short-4032"].layout, 2);
    assert_eq!(found.inodes["/short-4033"].layout, 0);
    assert_eq!(found.inodes["/long-12287"].layout, 0);
    assert_eq!(found.inodes["/long-8193"].layout, 2);
}

#[test]
fn names() {
    let mut layer = vec![Item::directory("order")];
    // On both sides of . and .., and between them.
    for name in ["!", "+", "-", ".\u{1}", ".-", "..\u{1}", "...", "..a", ".a", "0", "~", "\u{e9}"] {
        layer.push(Item::file(format!("order/{name}"), name));
    }
    layer.push(Item::file([b"order/".as_slice(), &[0xff, 0xfe, b'\n', 0x80]].concat(), "not UTF-8"));
    for length in [1, 254, 255] {
        layer.push(Item::file("n".repeat(length), length.to_string()));
    }
    let deep = ["d".repeat(200).as_str(); 40].join("/");
    layer.push(Item::file(format!("{deep}/file"), "deep"));
    let found = check(&build(&[layer]));
    assert!(found.dump.contains("deep") || found.inodes.keys().any(|path| path.len() > 8000));
}

#[test]
fn directories_of_every_length() {
    let mut layer = Vec::new();
    // One name more each time, over the end of the first and of the second block; and with long names.
    for count in (180..260).step_by(1).chain(400..410) {
        for index in 0..count {
            layer.push(Item::new(format!("d{count}/{index:08}"), Kind::Fifo));
        }
    }
    for count in 10..40 {
        for index in 0..count {
            layer.push(Item::new(format!("l{count}/{}{index:03}", "n".repeat(252)), Kind::Fifo));
        }
    }
    check(&build(&[layer]));
}

#[test]
fn two_hundred_thousand_names_in_one_directory() {
    let layer = (0..200_000).map(|index| Item::file(format!("d/{index}"), format!("{index}"))).collect();
    let built = build(&[layer]);
    assert_eq!(check(&built).inodes.len(), 200_002);
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
    let found = check(&build(&[lower, upper]));
    assert_eq!((found.inodes["/a"].nlink, found.inodes["/kept"].nlink, found.inodes["/s"].nlink), (2, 2, 2));
    assert_eq!(found.inodes["/a"].nid, found.inodes["/d/c"].nid);
    let many: Vec<Item> = std::iter::once(Item::file("first", "x"))
        .chain((0..70_000).map(|index| Item::link(format!("d/{index}"), "first")))
        .collect();
    let found = check(&build(&[many]));
    assert_eq!((found.inodes["/first"].nlink, found.inodes["/first"].extended), (70_001, true));
}

#[test]
fn attributes_inline_and_shared() {
    let acl = [&[2, 0, 0, 0][..], &[1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff]].concat();
    let mut layer = vec![
        Item::directory("./").xattr("user.root", "r"),
        Item::file("one", "x").xattr("user.one", "1"),
        Item::file("empty", "x").xattr("user.empty", ""),
        Item::file("binary", bytes(3, 9000)).xattr("trusted.b", [0, 255, 0, 1]),
        Item::file("capable", "x").xattr("security.capability", bytes(5, 20)),
        Item::directory("acl").xattr("system.posix_acl_access", acl.clone()).xattr("system.posix_acl_default", acl),
        Item::symlink("link", "one").xattr("trusted.l", "1"),
        Item::new("fifo", Kind::Fifo).xattr("trusted.f", "1"),
        Item::file("longest-name", "x").xattr(&format!("user.{}", "n".repeat(250)), "1"),
        Item::file("largest", bytes(6, 5000)).xattr("user.large", bytes(7, 65_535)),
        Item::file("large-and-shared", "x").xattr("user.large", bytes(7, 65_535)),
    ];
    for index in 0..300 {
        layer.push(Item::file(format!("label-{index}"), "x").xattr("security.selinux", "system_u:object_r:usr_t:s0\0"));
    }
    for (name, count, length) in [("many", 100, 30), ("more", 400, 100), ("large", 300, 600)] {
        let file = Item::file(name, bytes(8, 4000));
        layer.push((0..count).fold(file, |file, index| file.xattr(&format!("user.{index}"), bytes(index, length))));
    }
    let built = build(&[layer]);
    let found = check(&built);
    assert_eq!(built.written.losses, []);
    assert_eq!(found.inodes["/label-0"].xattrs["security.selinux".as_bytes()].len(), 27);
    // A value of 64 KiB is in the image once, and does not keep the file's tail from its inode.
    assert!(built.bytes() < 700_000, "{}", built.bytes());
    assert_eq!(found.inodes["/largest"].layout, 2);
}

#[test]
fn a_root_with_more_attributes_than_a_block_holds() {
    let root =
        (0..200).fold(Item::directory("./"), |root, index| root.xattr(&format!("user.{index}"), bytes(index, 100)));
    let lower = vec![root, Item::file("gone", bytes(1, 100_000)), Item::file("kept", bytes(2, 10_000))];
    check(&build(&[lower, vec![Item::whiteout(".", "gone")]]));
}

#[test]
fn what_cannot_be_held_is_said() {
    let layer = vec![
        Item::file("a", "x")
            .xattr("user.kept", "1")
            .xattr("user.", "1")
            .xattr("system.nfs4_acl", "1")
            .xattr("system.posix_acl_access", "nonsense")
            .xattr("user.large", vec![0; 65_536])
            .xattr(&format!("user.{}", "n".repeat(256)), "1"),
        Item::file("z", "x"),
    ];
    let built = build(&[layer]);
    let found = read(&built.image());
    fsck(&built.path);
    let names: Vec<&String> = found.inodes.keys().collect();
    assert_eq!(names, ["/", "/a", "/z"]);
    assert_eq!(found.inodes["/a"].xattrs.len(), 1);
    let prefixes = "erofs holds user., trusted., security. and system.posix_acl_* attributes only";
    let long = "n".repeat(256);
    let expected = [
        ("xattr", "a", format!("system.nfs4_acl: {prefixes}")),
        ("xattr", "a", "system.posix_acl_access: the value is not an access control list".to_owned()),
        ("xattr", "a", format!("user.: {prefixes}")),
        ("xattr", "a", "user.large: erofs holds attribute values of up to 65535 bytes".to_owned()),
        ("xattr", "a", format!("user.{long}: erofs holds attribute names of up to 255 bytes after the prefix")),
    ];
    let expected = expected.map(|(kind, path, detail)| Loss { kind, detail, count: 1, paths: vec![path.into()] });
    assert_eq!(built.written.losses, expected);
}

#[test]
fn what_linux_does_not_have_is_refused() {
    let table = [
        (
            Item::new("x", Kind::CharDevice { major: 4096, minor: 0 }),
            "the device number 4096:0, beyond Linux's 4095:1048575",
        ),
        (
            Item::new("x", Kind::BlockDevice { major: 0, minor: 1 << 20 }),
            "the device number 0:1048576, beyond Linux's 4095:1048575",
        ),
    ];
    for (item, message) in table {
        let error = try_build(&[vec![Item::file("a", "1"), item]], &[0], &options()).err().expect("refused");
        assert_eq!((error.code, &*error.message), (Code::OutputUnsupported, message));
        assert_eq!(error.context.path.as_deref(), Some(&b"x"[..]));
    }
}

#[test]
fn more_attributes_than_an_inode_can_have() {
    let file =
        (0..5000).fold(Item::file("a", "x"), |file, index| file.xattr(&format!("user.{index:04}"), bytes(index, 100)));
    let built = build(&[vec![file]]);
    let held = read(&built.image()).inodes["/a"].xattrs.len();
    assert_eq!(held + built.written.losses.len(), 5000);
    assert_eq!(held, 2417);
}

#[test]
fn attributes_that_cannot_be_held_do_not_count() {
    let file = Item::file("a", bytes(1, 3400)).xattr("user.big", bytes(2, 1500));
    let file = (0..300).fold(file, |file, index| file.xattr(&format!("bad.{index}"), "1"));
    let built = build(&[vec![file]]);
    fsck(&built.path);
    let names: Vec<Vec<u8>> = read(&built.image()).inodes["/a"].xattrs.keys().cloned().collect();
    assert_eq!((names, built.written.losses.len()), (vec![b"user.big".to_vec()], 300));
}

#[test]
fn holes() {
    use Part::{Data, Hole};
    let data = |blocks: usize| Data(bytes(blocks as u64, blocks * 4096));
    let table: Vec<(&str, Vec<Part>, u64)> = vec![
        ("all", vec![Hole(1 << 20)], 4),
        ("small", vec![Hole(100)], 4),
        ("front", vec![Hole(1 << 20), data(1)], 4),
        ("end", vec![data(1), Hole(1 << 20)], 4),
        ("end-inside", vec![Data(vec![1; 100]), Hole(1 << 20), Hole(77)], 4),
        ("middle", vec![data(3), Hole(10 * 4096), data(2), Hole(4096), Data(vec![7; 10])], 4),
        ("no-whole-block", vec![Data(vec![1; 100]), Hole(4000), Data(vec![2; 50])], 2),
        ("unaligned", vec![Data(vec![1; 100]), Hole(40_000), Data(vec![2; 50_000]), Hole(5000), Data(vec![3; 1])], 4),
        ("pieces", vec![Hole(1000), Hole(4000), Hole(4000), Data(vec![1; 1]), Hole(0), Data(vec![2; 1])], 4),
        ("large", vec![Hole(3 << 20), Data(bytes(1, 3 << 20)), Hole((3 << 20) + 1)], 4),
    ];
    let layer: Vec<Item> = table.iter().map(|(name, parts, _)| Item::sparse(*name, parts.clone())).collect();
    let after = vec![Item::file("after", bytes(9, 9000))];
    let built = build(&[layer, after]);
    let found = check(&built);
    for (name, _, layout) in &table {
        assert_eq!(found.inodes[&format!("/{name}")].layout, *layout, "{name}");
    }
    // The chunks of "large" are as large as its holes.
    assert_eq!(found.inodes["/large"].data, 8);
    assert!(built.bytes() < 4 << 20);
}

#[test]
fn five_gibibytes_with_two_blocks_of_data() {
    let parts = vec![Part::Hole(4 << 30), Part::Data(bytes(1, 4096)), Part::Hole(1 << 30), Part::Data(vec![1; 1])];
    let built = build(&[vec![Item::sparse("large", parts)]]);
    fsck(&built.path);
    assert!(built.bytes() < 6 << 20, "{}", built.bytes());
    let parts = vec![Part::Hole(1 << 50), Part::Data(vec![1; 4096]), Part::Hole(1 << 12), Part::Data(vec![1; 1])];
    let refused = try_build(&[vec![Item::sparse("absurd", parts)]], &[0], &options()).err().expect("refused");
    assert_eq!(refused.code, Code::OutputUnsupported);
    assert_eq!(refused.context.path.as_deref(), Some(&b"absurd"[..]));
}

/// Debian's fsck.erofs reads a few bytes behind every inode.
#[test]
fn an_inode_at_the_end_of_its_block() {
    for count in 30..110 {
        let built = build(&[(0..count).map(|index| Item::file(format!("{index}"), "")).collect()]);
        check(&built);
    }
}

#[test]
fn times_are_clamped() {
    let layer =
        vec![Item::directory("./").mtime(10, 7), Item::file("a", "x").mtime(100, 1), Item::file("b", "x").mtime(-3, 5)];
    let options = Options { clamp_mtime: Some(50), created: 50, ..options() };
    let built = try_build(&[layer], &[0], &options).expect("an image");
    let found = read(&built.image());
    let times: Vec<(i64, u64)> = found.inodes.values().map(|inode| inode.mtime).collect();
    assert_eq!(times, [(10, 7), (50, 0), (-3, 5)]);
}

#[test]
fn uuid_and_build_time_are_in_the_superblock() {
    let image = build(&[vec![]]).image();
    assert_eq!(image[1024 + 48..1024 + 64], options().uuid);
    assert_eq!(image[1024 + 24..1024 + 32], 1_700_000_000i64.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_tree_comes_back(
        layers in vec(vec((0..20u8, 0..7u8, 0..20_000usize, 0..20_000u64, 0..4u8), 0..30), 1..4),
        order in Just([0, 1, 2]).prop_shuffle(),
    ) {
        let layers: Vec<Vec<Item>> = layers.iter().map(|layer| layer.iter().map(random_item).collect()).collect();
        let order: Vec<usize> = order.into_iter().filter(|&index| index < layers.len()).collect();
        let built = try_build(&layers, &order, &options()).expect("an image");
        check(&built);
        prop_assert_eq!(build(&layers).image(), built.image());
    }
}

fn random_item(&(name, kind, size, hole, extra): &(u8, u8, usize, u64, u8)) -> Item {
    let path = if name % 3 == 0 { format!("d{}/{name}", name % 2) } else { format!("{name}") };
    let data = bytes(u64::from(name), size);
    let item = match kind {
        0 => Item::symlink(path, data.iter().map(|byte| b'a' + byte % 26).take(1 + size % 4095).collect::<Vec<_>>()),
        1 => Item::directory(path),
        2 => Item::sparse(path, vec![Part::Data(data.clone()), Part::Hole(hole), Part::Data(data)]),
        3 if name % 3 == 0 => Item::whiteout("d0", &name.to_string()),
        3 => Item::whiteout(".", &name.to_string()),
        _ => Item::file(path, data),
    };
    match extra {
        0 => item.xattr("user.x", bytes(size as u64, size % 700)),
        1 => item.xattr("trusted.same", "for all"),
        _ => item,
    }
}
