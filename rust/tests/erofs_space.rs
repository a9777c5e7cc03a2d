//! What later layers delete leaves nothing in an erofs image: neither bytes nor space. And the same layers give the
//! same image, in whatever order they are read.

mod erofs_support;

use std::sync::Arc;

use erofs_support::build::{Built, Item, build, bytes, options, request, try_build};
use erofs_support::fsck;
use erofs_support::read::read;
use ocifast_core::contents::{Contents, Store};
use ocifast_core::entry::Metadata;
use ocifast_core::error::Code;
use ocifast_core::output::WriteRequest;
use ocifast_core::output::erofs::{self, ErofsStore};
use ocifast_core::tree::{InodeKind, Tree};

const SECRET: &[u8] = b"a secret that a later layer deletes";

fn secret(length: usize) -> Vec<u8> {
    SECRET.iter().copied().cycle().take(length).collect()
}

fn check(built: &Built) {
    let image = built.image();
    assert_eq!(read(&image).dump, built.dump());
    let waste = read(&image).unused_blocks * 4096;
    assert!(waste == built.written.properties.dead || waste == built.written.properties.dead + 4096);
    assert!(waste * 100 < image.len() as u64, "{waste} of {} bytes are dead", image.len());
    assert!(!image.windows(SECRET.len()).any(|window| window == SECRET), "a deleted file can be read in the image");
    fsck(&built.path);
}

/// Files `n` of so many bytes each, of which `gone` says which hold what will be deleted.
fn files(count: usize, size: usize, gone: impl Fn(usize) -> bool) -> Vec<Item> {
    let content = |index| if gone(index) { secret(size) } else { bytes(index as u64, size) };
    (0..count).map(|index| Item::file(format!("d/{index:05}"), content(index))).collect()
}

fn without(count: usize, gone: impl Fn(usize) -> bool) -> Vec<Item> {
    (0..count).filter(|&index| gone(index)).map(|index| Item::whiteout("d", &format!("{index:05}"))).collect()
}

#[test]
fn metadata_fill_what_little_is_deleted() {
    let gone = |index| index % 20 == 7;
    let built = build(&[files(2000, 6000, gone), without(2000, gone)]);
    check(&built);
    assert_eq!(built.written.properties.dead, 0);
}

#[test]
fn what_little_stays_dead_is_cleared() {
    let lower = vec![Item::file("gone", secret(80_000)), Item::file("large", bytes(1, 10_000_000))];
    let built = build(&[lower, vec![Item::whiteout(".", "gone")]]);
    check(&built);
    assert!(built.written.properties.dead > 10 * 4096, "{}", built.written.properties.dead);
}

#[test]
fn files_move_down_when_more_is_deleted() {
    let gone = |index| index % 3 != 0;
    let built = build(&[files(600, 40_960, gone), without(600, gone)]);
    check(&built);
    // 200 files of 10 blocks, and next to nothing else.
    assert!(built.bytes() < 2050 * 4096, "{}", built.bytes());
}

#[test]
fn all_slides_down_when_the_last_file_fits_nowhere() {
    let gone = |index| index % 2 == 0;
    let mut upper = without(300, gone);
    upper.push(Item::file("large", bytes(1, 3_000_000)));
    check(&build(&[files(300, 8192, gone), upper]));
}

#[test]
fn nothing_is_left_of_what_is_replaced_whole() {
    let built =
        build(&[files(100, 100_000, |_| true), vec![Item::new("d/.wh..wh..opq", ocifast_core::entry::Kind::Fifo)]]);
    check(&built);
    assert_eq!(built.bytes(), 2 * 4096);
}

#[test]
fn different_sizes_of_files_and_gaps() {
    for step in 1..12 {
        let gone = move |index: usize| (index * 7 + step) % 12 < step;
        let layer = (0..200)
            .map(|index| {
                let size = (index * 7919 * step) % 90_000;
                Item::file(format!("d/{index:05}"), if gone(index) { secret(size) } else { bytes(index as u64, size) })
            })
            .collect();
        check(&build(&[layer, without(200, gone)]));
    }
}

#[test]
fn the_order_in_which_layers_are_read_does_not_matter() {
    let gone = |index| index % 4 == 0;
    let layers = [
        files(100, 50_000, gone),
        vec![Item::file("a", bytes(1, 5_000_000)), Item::file("small", "x")],
        vec![],
        without(100, gone),
        vec![Item::file("b", bytes(2, 70_000))],
    ];
    let expected = build(&layers);
    check(&expected);
    for order in [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 0, 2, 3, 4], [0, 2, 1, 4, 3]] {
        let built = try_build(&layers, &order, &options()).expect("an image");
        assert!(built.image() == expected.image(), "{order:?}");
        assert_eq!(built.written, expected.written);
        let left: Vec<_> = std::fs::read_dir(built.folder.path()).expect("listed").collect();
        assert_eq!(left.len(), 1, "spool files are left");
    }
}

#[test]
fn what_waited_for_its_place_moves_as_all_else_does() {
    let (third, half) = (|index: usize| !index.is_multiple_of(3), |index: usize| index.is_multiple_of(2));
    let base = || vec![Item::file("base", bytes(3, 1_000_000))];
    let mut large = without(300, half);
    large.push(Item::file("large", bytes(1, 3_000_000)));
    let mut more = without(600, third);
    more.push(Item::file("more", bytes(4, 70_000)));
    let moves: [[Vec<Item>; 3]; 3] = [
        // Into gaps; of single blocks; all that follows a gap.
        [base(), files(600, 40_960, third), more],
        [base(), files(900, 4096, third), without(900, third)],
        [base(), files(300, 8192, half), large],
    ];
    for layers in &moves {
        let expected = build(layers);
        check(&expected);
        // All above the lowest wait, or one of them, or none.
        for order in [[2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]] {
            let built = try_build(layers, &order, &options()).expect("an image");
            assert!(built.image() == expected.image(), "{order:?}");
            assert_eq!(std::fs::read_dir(built.folder.path()).expect("listed").count(), 1, "spool files are left");
        }
    }
}

#[test]
fn what_waits_for_its_place_is_read_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(ErofsStore::create(folder.path(), 3).expect("a store"));
    let mut contents = Vec::new();
    for index in [2, 1, 0] {
        let mut layer = store.layer(index).expect("a layer");
        for size in [10_000, 3, 8192, 0, 50_000] {
            let mut whole = bytes(u64::from(index) * 10_000 + size as u64, size);
            layer.begin(&Metadata::default(), size as u64).expect("begun");
            if size == 50_000 {
                layer.data(&whole[..9000]).expect("written");
                layer.hole(20_000).expect("a hole");
                layer.data(&whole[29_000..]).expect("written");
                whole[9000..29_000].fill(0);
            } else {
                layer.data(&whole).expect("written");
            }
            contents.push((layer.end().expect("ended"), whole));
        }
        layer.finish().expect("finished");
    }
    for (content, whole) in &contents {
        let mut buffer = vec![0; 60_000];
        let count = store.read_at(content, 0, &mut buffer).expect("read");
        assert!(&buffer[..count] == whole, "{} {}", content.layer, whole.len());
    }
    let names = std::fs::read_dir(folder.path()).expect("listed");
    assert_eq!(names.count(), 3, "the image, and what two layers wrote ahead");
}

#[test]
fn an_image_whose_data_did_not_arrive_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(ErofsStore::create(folder.path(), 2).expect("a store"));
    let mut contents = Vec::new();
    for index in [1, 0] {
        let mut layer = store.layer(index).expect("a layer");
        layer.begin(&Metadata::default(), 10_000).expect("begun");
        layer.data(&bytes(u64::from(index), 10_000)).expect("written");
        contents.push(layer.end().expect("ended"));
        layer.finish().expect("finished");
    }
    std::fs::remove_file(folder.path().join("ahead-1")).expect("what the upper layer wrote ahead");
    let (tree, options, path) = (Tree::new(), options(), folder.path().join("published.erofs"));
    let mut buffer = vec![0; 10_000];
    let written = erofs::write(request(&tree, &*store, &path, &options));
    assert_eq!(written.map_err(|error| error.code), Err(Code::Io));
    // Not zeros, which stand where they should be.
    assert_eq!(store.read_at(&contents[0], 0, &mut buffer).expect_err("refused").code, Code::Io);
    assert!(!path.exists());
}

#[test]
fn layers_side_by_side() {
    let layers: Vec<Vec<Item>> = (0..4)
        .map(|layer| {
            (0..40).map(|index| Item::file(format!("{layer}/{index}"), bytes(layer * 100 + index, 90_001))).collect()
        })
        .collect();
    let expected = build(&layers);
    check(&expected);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("published.erofs");
    let store = Arc::new(ErofsStore::create(folder.path(), layers.len()).expect("a store"));
    let mut parts: Vec<_> = (0..4).map(|index| store.layer(index).expect("a layer")).collect();
    // A file of each in turn, the highest layer first; they end from the top as well.
    for file in 0..40 {
        for (layer, part) in layers.iter().zip(&mut parts).rev() {
            let Item { entry, parts } = &layer[file];
            part.begin(&entry.metadata, 90_001).expect("begun");
            for data in parts {
                let erofs_support::build::Part::Data(data) = data else { unreachable!() };
                part.data(data).expect("written");
            }
            part.end().expect("ended");
        }
    }
    for part in parts.iter_mut().rev() {
        part.finish().expect("finished");
    }
    erofs::write(request(&expected.tree, &*store, &path, &options())).expect("an image");
    assert!(std::fs::read(&path).expect("the image") == expected.image());
}

#[test]
fn contents_are_read_before_the_image_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(ErofsStore::create(folder.path(), 1).expect("a store"));
    let mut layer = store.layer(0).expect("a layer");
    let whole = bytes(1, 10_000);
    layer.begin(&Metadata::default(), 10_000).expect("begun");
    layer.data(&whole).expect("written");
    let content = layer.end().expect("ended");
    layer.finish().expect("finished");
    for (offset, length) in [(0, 20_000), (0, 10), (4090, 10), (8190, 10), (8192, 5000), (9000, 100), (10_000, 5)] {
        let mut buffer = vec![0; length];
        let count = store.read_at(&content, offset, &mut buffer).expect("read");
        assert_eq!(
            buffer[..count],
            whole[offset as usize..(offset as usize + length).min(10_000)],
            "{offset}+{length}"
        );
    }
}

#[test]
fn an_image_is_completed_once_and_only_from_complete_layers() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(ErofsStore::create(folder.path(), 1).expect("a store"));
    let (tree, options) = (Tree::new(), options());
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    let mut layer = store.layer(0).expect("a layer");
    let error = erofs::write(request(&tree, &*store, &one, &options)).expect_err("refused");
    assert_eq!(error.message, "a layer of the image is not complete");
    layer.finish().expect("finished");
    erofs::write(request(&tree, &*store, &one, &options)).expect("an image");
    // The next one is a copy, which needs a place for what is copied.
    let error = erofs::write(request(&tree, &*store, &other, &options)).expect_err("refused");
    assert_eq!(error.message, "contents wait in another store, and there is no folder for copies");
    let folder = Some(folder.path());
    erofs::write(WriteRequest { folder, ..request(&tree, &*store, &other, &options) }).expect("an image");
    assert!(std::fs::read(&one).expect("an image") == std::fs::read(&other).expect("an image"));
}

#[test]
fn contents_that_moved_are_found() {
    let gone = |index| index % 3 != 0;
    let built = build(&[files(600, 40_961, gone), without(600, gone)]);
    let mut buffer = vec![0; 50_000];
    for step in built.tree.walk() {
        if let InodeKind::File(content) = &built.tree.inode(step.inode).kind {
            let index: u64 = String::from_utf8_lossy(&step.path[2..]).parse().expect("a number");
            let length = built.store.read_at(content, 0, &mut buffer).expect("read");
            assert!(buffer[..length] == bytes(index, 40_961), "{index}");
        }
    }
}
