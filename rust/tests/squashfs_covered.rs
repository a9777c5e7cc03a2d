//! Files that upper layers seem to replace: what a squashfs image holds of them.

mod squashfs_support;

use std::sync::Arc;

use ocifast_core::contents::Covers;
use ocifast_core::output::squashfs::{Compression, write};
use ocifast_core::read::Format;
use squashfs_support::back;
use squashfs_support::items::{Item, Part, bytes, text};
use squashfs_support::{OPTIONS, build, build_under, request};

#[test]
fn what_seems_replaced_is_compressed_when_it_is_wanted_all_the_same() {
    let hole = vec![Part::Data(text(4, 70_000)), Part::Hole(1 << 20), Part::Data(bytes(5, 300))];
    let lower = vec![
        Item::file("linked", text(1, 300_000)),
        Item::sparse("sparse", hole),
        Item::file("same", text(1, 300_000)),
        Item::file("gone", bytes(2, 300_000)),
    ];
    let upper = vec![
        Item::link("name", "linked"),
        Item::file("linked", text(3, 100)),
        Item::link("other", "sparse"),
        Item::whiteout(".", "sparse"),
        Item::file("gone", text(6, 10)),
    ];
    let layers = [lower, upper];
    let covers: Arc<Covers> = Arc::new(|layer, path| layer == 0 && path != b"same");
    for (name, block, packs_tails) in [("zstd", 1 << 17, true), ("none", 4096, false), ("lz4", 4096, true)] {
        let compression = Compression::parse(name, None, block, packs_tails, 3).expect("a compression");
        let built = build_under(&covers, &layers, &[1, 0], &compression);
        back::same(&built.image(), Format::Squashfs, &built.dump());
        assert!(built.image() == build(&layers, &compression).image(), "{name}");
        // Once more: nothing of the first time is in the way.
        let again = built.folder.path().join("again");
        write(request(&built.tree, &*built.store, &again, &compression, &OPTIONS)).expect("an image");
        assert!(std::fs::read(&again).expect("an image") == built.image());
    }
}
