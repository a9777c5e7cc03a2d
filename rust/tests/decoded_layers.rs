//! Decoded layers: what is kept of a layer says the same as its archive, in every store, and stands alone as an image.

#[path = "support/layers.rs"]
mod layers;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use layers::{Archive, Kept, dumped, erofs, flatten, random, whole_blocks};
use ocifast_core::decoded::{REASONS, Table};
use ocifast_core::entry::{Metadata, is_attribute_name};
use ocifast_core::error::Code;
use ocifast_core::limits::Limits;
use ocifast_core::output::erofs::layer_digest;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whichever of the layers come from what was kept: the same tree or the same refusal.
    #[test]
    fn kept_layers_merge_as_streams_do(archives in random(), kept in any::<u8>()) {
        let cold = dumped(&archives, &[]);
        let decoded: Vec<Option<Kept>> = archives.iter().enumerate()
            .map(|(index, archive)| (kept >> index & 1 == 1).then(|| Kept::for_merging(archive)).flatten()).collect();
        prop_assert_eq!(dumped(&archives, &decoded), cold);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The flat image is the same byte for byte, with tails behind inodes and in whole blocks.
    #[test]
    fn kept_layers_make_the_same_image(archives in random(), kept in any::<u8>()) {
        let decoded: Vec<Option<Kept>> = archives.iter().enumerate()
            .map(|(index, archive)| (kept >> index & 1 == 1).then(|| Kept::of(archive)).flatten()).collect();
        prop_assert_eq!(erofs(&archives, &decoded), erofs(&archives, &[]));
        prop_assert_eq!(whole_blocks(&archives, &decoded), whole_blocks(&archives, &[]));
    }

    /// Keeping a layer changes nothing of the run that keeps it.
    #[test]
    fn a_run_that_keeps_its_layers_makes_the_same(archives in random()) {
        prop_assert_eq!(flatten(&archives, true), flatten(&archives, false));
    }

    /// No byte of a table can change without being noticed.
    #[test]
    fn damage_of_a_table_is_noticed(archives in random(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let Some(kept) = Kept::of(&archives[0]) else { return Ok(()) };
        let mut bytes = kept.table_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(Table::open(file(&bytes)).is_err(), "byte {at}");
        for length in [at, bytes.len() - 1] {
            prop_assert!(Table::open(file(&kept.table_bytes()[..length])).is_err(), "cut to {length}");
        }
    }

    /// Even a table whose checksum was made to fit is held to its bounds: an error, never a panic.
    #[test]
    fn a_forged_table_is_bounded(archives in random(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let Some(kept) = Kept::of(&archives[0]) else { return Ok(()) };
        let forged = kept.forged(|body| if !body.is_empty() { let at = at.index(body.len()); body[at] ^= flip; });
        if let Ok(table) = Table::open(file(&forged)) {
            let limits = Limits { path_bytes: 4096, layer_bytes: 1 << 40, ..Limits::default() };
            for batch in table.entries(0, &limits) {
                for entry in batch.into_iter().flatten() {
                    let Metadata { mode, mtime, xattrs, .. } = &entry.entry.metadata;
                    prop_assert!(*mode <= 0o7777 && mtime.nanoseconds < 1_000_000_000);
                    prop_assert!(xattrs.iter().flat_map(|set| set.keys()).all(|name| is_attribute_name(name)));
                    let end = entry.content.map_or(0, |content| content.position + ocifast_core::blocks::length_of(&content));
                    prop_assert!(end <= table.data_end());
                }
            }
        }
    }
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(bytes, 0).expect("written");
    file
}

#[test]
fn a_kept_layer_is_an_image_that_fsck_accepts() {
    let archive = Archive::of(&[
        "./",
        "dir/",
        "dir/file 5000",
        "dir/small 3",
        "dir/empty 0",
        "dir/link -> ../target",
        "dir/hard = dir/file",
        "dir/.wh.gone 0",
        "opaque/",
        "opaque/.wh..wh..opq 0",
        "null c 1 3",
        "pipe p",
        "sparse 20000 @ 9000 100",
    ]);
    let kept = Kept::of(&archive).expect("kept");
    assert_eq!(kept.reason(), None);
    let path = kept.image_path();
    let checked = Command::new("fsck.erofs").arg(&path).output().expect("fsck.erofs runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    assert_eq!(layer_digest(&File::open(&path).expect("opened")).expect("read"), kept.digest);
}

#[test]
fn every_reason_has_its_case() {
    let table: &[(&str, &[&str], &str)] = &[
        ("made_parent", &["./", "dir/file 1"], "dir/file"),
        ("lower_link", &["./", "link = below"], "link"),
        ("device_zero", &["./", "zero c 0 0"], "zero"),
        ("overlay_attribute", &["./", "dir/ +trusted.overlay.opaque"], "dir/"),
        ("opaque_root", &["./", ".wh..wh..opq 0"], ".wh..wh..opq"),
        ("whiteout_behind", &["./", "a -> b", "a/.wh.c 0"], "a/.wh.c"),
        ("attribute", &["./", "file 1 +system.odd"], "file"),
    ];
    let covered: Vec<&str> = table.iter().map(|(code, ..)| *code).collect();
    assert_eq!(covered, REASONS.map(|(code, _)| code));
    for (code, lines, path) in table {
        let kept = Kept::of(&Archive::of(lines)).unwrap_or_else(|| panic!("{code}: not kept"));
        assert_eq!(kept.reason(), Some((*code).to_owned() + " " + path), "{code}");
    }
}

#[test]
fn limits_count_again() {
    let archive = Archive::of(&["./", "a-long-name/", "sparse 20000 @ 9000 100", "more 100"]);
    let kept = Kept::of(&archive).expect("kept");
    for limits in [
        Limits { entries: 3, ..Limits::default() },
        Limits { path_bytes: 8, ..Limits::default() },
        Limits { layer_bytes: 10_000, ..Limits::default() },
        Limits { sparse_extents: 0, ..Limits::default() },
    ] {
        let error = layers::limited(&archive, &kept, limits.clone()).expect_err("limited");
        assert_eq!(error.code, Code::LimitExceeded, "{limits:?}");
    }
}

#[test]
fn another_layer_is_refused() {
    let (one, other) = (Archive::of(&["a 1"]), Archive::of(&["b 1"]));
    let kept = Kept::of(&other).expect("kept");
    let error = layers::limited(&one, &kept, Limits::default()).expect_err("refused");
    assert_eq!(error.code, Code::DiffIdMismatch);
}

#[test]
fn layers_of_small_files_are_kept_only_where_that_is_wanted() {
    let lines: Vec<String> = (0..200).map(|index| format!("file-{index} 10")).collect();
    let archive = Archive::of(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(Kept::of_kind(&archive, false).is_none());
    assert!(Kept::of_kind(&archive, true).is_some());
}

#[test]
fn a_full_disk_costs_the_kept_layer_alone() {
    let archive = Archive::of(&["./", "large 3000000", "small 10", "sparse 20000 @ 9000 100"]);
    let cold = dumped(std::slice::from_ref(&archive), &[]);
    for (table, data) in [("/dev/full", "/dev/null"), ("/dev/null", "/dev/full"), ("/dev/full", "/dev/full")] {
        let (tree, kept) = layers::onto(&archive, table, data);
        assert_eq!((tree, kept), (cold.clone(), false), "{table} {data}");
    }
}
