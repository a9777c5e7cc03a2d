//! Every writer against the reader of its format: random trees, written every way and read back; and images of which each
//! byte was changed.
//!
//! `READ_BACK_CASES` says how many trees.

#[path = "support/back.rs"]
mod back;
#[path = "support/items.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod items;
#[path = "support/written.rs"]
mod written;

use std::io::Cursor;
use std::sync::Arc;

use items::{Item, Part, bytes, text};
use ocifast_core::decompress::decompress;
use ocifast_core::entry::{Kind, Mtime};
use ocifast_core::error::{Code, Result};
use ocifast_core::limits::Limits;
use ocifast_core::output::{Loss, dump, tree_digest};
use ocifast_core::read::{Format, read};
use ocifast_core::verify::{Expected, compare, verify};
use proptest::collection::vec;
use proptest::prelude::*;
use written::{FORMS, Made, PACKED, write};

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&["a", "b", "c", "dd", "\u{e9}", "TRAILER!!!", "n n"]);
    let long = prop::sample::select(&[99usize, 100, 101, 200, 255]).prop_map(|length| "l".repeat(length));
    vec(prop_oneof![9 => name.prop_map(str::to_owned), 1 => long], 1..5).prop_map(|names| names.join("/"))
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let size = prop::sample::select(&[0usize, 1, 100, 4000, 4032, 4095, 4096, 4097, 9000, 70_000, 140_000]);
    let part = (size, 0..4u8, any::<u16>()).prop_map(|(size, kind, seed)| match kind {
        0 => Part::Hole(size as u64),
        1 => Part::Data(vec![0; size]),
        2 => Part::Data(bytes(seed.into(), size)),
        _ => Part::Data(text(seed.into(), size)),
    });
    vec(part, 0..4)
}

fn item() -> impl Strategy<Value = Item> {
    let target = prop_oneof![path(), Just("/".to_owned()), (1usize..4096).prop_map(|length| "t".repeat(length))];
    let number = prop::sample::select(&[0u32, 1, 255, 256, 4095]);
    let kinds = prop_oneof![
        4 => (path(), parts()).prop_map(|(path, parts)| Item::sparse(path, parts)),
        2 => path().prop_map(Item::directory),
        1 => Just(Item::directory("./")),
        1 => (path(), target).prop_map(|(path, target)| Item::symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Item::link(path, target)),
        1 => (path(), number.clone(), number.clone(), any::<bool>()).prop_map(|(path, major, minor, block)| {
            Item::new(path, if block { Kind::BlockDevice { major, minor } } else { Kind::CharDevice { major, minor } })
        }),
        1 => path().prop_map(|path| Item::new(path, Kind::Fifo)),
    ];
    let owner = prop::sample::select(&[0u32, 1, 65_535, 65_536, u32::MAX - 1]);
    let seconds =
        prop::sample::select(&[0i64, -1, 1_700_000_000, 1 << 31, 4_294_967_295, 1 << 32, 1 << 40, -(1 << 33)]);
    let time = (seconds, prop::sample::select(&[0u32, 1, 999_999_999]));
    let attribute = prop::sample::select(&["user.a", "user.b", "trusted.t", "security.capability", "system.odd"]);
    let attributes = vec((attribute, prop::sample::select(&[0usize, 1, 20, 300, 5000, 40_000])), 0..3);
    (kinds, 0u16..0o10000, (owner.clone(), owner), time, attributes).prop_map(
        |(item, mode, owner, time, attributes)| {
            let item = item.mode(mode).owner(owner.0, owner.1).mtime(time.0, time.1);
            attributes.into_iter().fold(item, |item, (name, size)| item.xattr(name, bytes(size as u64, size)))
        },
    )
}

fn cases() -> u32 {
    std::env::var("READ_BACK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

/// What was written is the tree, but for what was said to be lost.
fn check(made: &Made) {
    let Made { form, tree, contents, path, losses, folder } = made;
    let expected = Expected { tree, contents: &**contents, losses, clamp: None };
    verify(&expected, path, form.format, folder.path(), 1).unwrap_or_else(|error| panic!("{form:?}: {error}"));
    if losses.is_empty() && !made.is_packed() {
        let found = back::image(&std::fs::read(path).expect("an image"), form.format).expect("sound");
        let digests = [tree_digest(tree, &**contents), tree_digest(&found.tree, &*found.contents)];
        let [one, other] = digests.map(|digest| digest.expect("a digest"));
        assert_eq!(one, other, "{form:?}");
    }
}

#[test]
fn every_writer_is_read_back() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::with_cases(cases())
    });
    let layers = (vec(vec(item(), 0..10), 1..3), 0..FORMS.len());
    let result = runner.run(&layers, |(layers, first)| {
        // Three forms a tree: all of them come up often enough.
        for form in [FORMS[first], FORMS[(first + 3) % FORMS.len()], PACKED[first % PACKED.len()]] {
            // What a merge refuses, a writer may not get.
            if let Some(made) = write(&layers, form) {
                check(&made);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Something of everything.
fn rich() -> Vec<Vec<Item>> {
    vec![vec![
        Item::directory("./").mode(0o1755).owner(1, 70_000).mtime(5, 0),
        Item::directory("d").xattr("user.d", "1"),
        Item::file("d/text", text(1, 9000)).mtime(7, 0),
        Item::file("d/noise", bytes(2, 300)),
        Item::file("small", "small").xattr("user.long", bytes(3, 700)).xattr("security.capability", bytes(4, 20)),
        Item::sparse("holes", vec![Part::Hole(10_000), Part::Data(bytes(5, 10)), Part::Hole(7000)]),
        Item::link("link", "d/text"),
        Item::symlink("symlink", "d/text"),
        Item::symlink("long", "x".repeat(300)),
        Item::new("char", Kind::CharDevice { major: 259, minor: 3 }),
        Item::new("fifo", Kind::Fifo),
        Item::file("empty", ""),
    ]]
}

/// The canonical text of an image, or of what a compressed archive unpacks to.
fn reread(bytes: Vec<u8>, made: &Made, limits: &Limits) -> Result<String> {
    let plain = if made.is_packed() {
        let mut plain = Vec::new();
        decompress(Cursor::new(bytes), &mut plain, limits)?;
        plain
    } else {
        bytes
    };
    let image = read(Arc::new(plain), made.form.format, limits)?;
    let mut text = String::new();
    dump(&image.tree, &*image.contents, |line| {
        text.push_str(line);
        Ok(())
    })?;
    Ok(text)
}

fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kibibytes| kibibytes.parse().ok()).expect("a number")
}

#[test]
fn any_byte_may_be_wrong() {
    let limits = Limits {
        entries: 1000,
        metadata_bytes: 4 << 20,
        image_bytes: 8 << 20,
        layer_bytes: 8 << 20,
        ..Limits::default()
    };
    for form in FORMS.into_iter().filter(|form| !PACKED.contains(form)).chain(PACKED) {
        let made = write(&rich(), form).expect("written");
        let image = std::fs::read(&made.path).expect("an image");
        let sound = reread(image.clone(), &made, &limits).expect("sound");
        assert!(sound.starts_with("/ "), "{form:?}");
        let before = high_water();
        let (mut refused, mut same, mut other) = (0, 0, 0);
        for at in 0..image.len() {
            // Blocks without anything in them are looked at here and there.
            let block = &image[at / 512 * 512..(at / 512 * 512 + 512).min(image.len())];
            if block.iter().all(|&byte| byte == 0) && at % 509 > 0 {
                continue;
            }
            let mut damaged = image.clone();
            damaged[at] ^= [0xff, 0x01, 0x80, 0x10][at % 4];
            match reread(damaged, &made, &limits) {
                Err(error) => {
                    let known = [Code::FilesystemInvalid, Code::LimitExceeded, Code::CompressionInvalid];
                    assert!(known.contains(&error.code), "{form:?} at {at}: {error}");
                    refused += 1;
                }
                Ok(text) if text == sound => same += 1,
                Ok(_) => other += 1,
            }
        }
        // A compressed archive has a checksum: what its bytes say is what was written, or nothing. In the head of gzip
        // stand a time and a system that nobody looks at.
        let as_expected = if made.is_packed() { other == 0 } else { same > 0 && other > 100 };
        assert!(refused > 100 && as_expected, "{form:?}: {refused} refused, {same} same, {other} other");
        // The kernel adds up what its processors count when it is asked: it may say less than before.
        let took = high_water().saturating_sub(before);
        assert!(took < 100 << 10, "{form:?} took {took} KiB");
    }
}

#[test]
fn no_end_and_no_begin_is_read() {
    for form in FORMS {
        let made = write(&rich(), form).expect("an image");
        let image = std::fs::read(&made.path).expect("an image");
        // The last half of an ext4 image is free.
        for length in [0, 1, 4, 100, 512, 1024, 1100, 2000, image.len() / 8] {
            let text = back::text(&image[..length], form.format);
            assert!(!text.starts_with("/ "), "{form:?} of {length} bytes: {text:.60}");
        }
    }
}

#[test]
fn what_names_of_one_file_lost_is_told_once() {
    let layer = vec![
        Item::symlink("a", "t").xattr("user.a", "1").mtime(1 << 40, 0).owner(70_000, 1),
        Item::link("b", "a"),
        Item::new("c", Kind::Fifo).xattr("user.a", "1").mtime(-5, 7),
        Item::link("d", "c"),
    ];
    for form in FORMS {
        check(&write(std::slice::from_ref(&layer), form).expect("an output"));
    }
}

#[test]
fn what_differs_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    type Change = fn(&mut Item);
    let table: [(Change, &str); 8] = [
        (|item| item.entry.metadata.mode = 0o600, "/f: its mode is 0600, not 0644"),
        (|item| item.entry.metadata.uid = 7, "/f: its owner is 7:0, not 0:0"),
        (|item| item.entry.metadata.mtime = Mtime { seconds: 8, nanoseconds: 0 }, "/f: its time is 8.0"),
        (|item| item.entry.metadata.xattrs = None, "/f: its attribute user.a is missing"),
        (|item| item.parts = vec![Part::Data(b"contant".to_vec())], "/f: its content differs at byte 4"),
        (|item| *item = Item::file("f", "shorter"), "/f: its size differs"),
        (|item| *item = Item::new("f", Kind::Fifo), "/f: its type differs"),
        (|item| *item = Item::file("g", "content"), "/f is missing"),
    ];
    for (change, said) in table {
        let mut item = Item::file("f", "content").xattr("user.a", "1");
        let spool = |item: &Item| {
            let store = Arc::new(ocifast_core::spool::SpoolStore::new(folder.path(), 1));
            let tree = items::merged(&[vec![item.clone()]], &[0], &store).expect("a tree");
            (tree, store)
        };
        let (tree, contents) = spool(&item);
        if said.contains("size") {
            item = Item::file("f", "content");
        }
        change(&mut item);
        if said.contains("size") {
            item = Item::file("f", "longer content");
        }
        let made = write(&[vec![item]], FORMS[FORMS.len() - 1]).expect("an archive");
        let image = back::image(&std::fs::read(&made.path).expect("an archive"), made.form.format).expect("sound");
        let expected = Expected { tree: &tree, contents: &*contents, losses: &[], clamp: None };
        let error = compare(&expected, &image, 2).expect_err("it differs");
        assert_eq!(error.code, Code::OutputMismatch);
        assert!(error.message.starts_with(said), "{error}");
        // A loss that was told explains what it is about, once.
        let kind = [("mode", "mode"), ("owner", "owner"), ("time", "mtime"), ("attribute", "xattr")];
        let kind = kind.iter().find(|(word, _)| said.contains(word)).map(|(_, kind)| *kind);
        for (count, explained) in [(1, kind.is_some()), (0, false)] {
            let loss = Loss { kind: kind.unwrap_or("mtime"), detail: String::new(), count, paths: Vec::new() };
            let expected = Expected { losses: &[loss], ..expected_of(&expected) };
            assert_eq!(compare(&expected, &image, 1).is_ok(), explained, "{said}");
        }
    }
}

fn expected_of<'a>(expected: &Expected<'a>) -> Expected<'a> {
    Expected { tree: expected.tree, contents: expected.contents, losses: expected.losses, clamp: expected.clamp }
}

#[test]
fn formats_have_names() {
    for name in ["erofs", "squashfs", "ext4", "cpio", "tar"] {
        assert!(Format::parse(name).is_some());
    }
    assert_eq!(Format::parse("ntfs"), None);
}
