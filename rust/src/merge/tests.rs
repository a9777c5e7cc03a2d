//! How much the merge does, counted: the components of paths that it walks in the tree.

use super::*;
use crate::contents::Content;
use crate::tree::STEPS;

fn ingested(path: &str, kind: Kind) -> StoredEntry {
    let content =
        matches!(kind, Kind::File { .. }).then_some(Content { layer: 0, position: 0, size: 0, extents: None });
    StoredEntry { entry: Entry { path: path.into(), kind, metadata: Metadata::default(), offset: 0 }, content }
}

fn file(path: &str) -> StoredEntry {
    ingested(path, Kind::File { size: 0 })
}

fn link(path: &str, target: &str) -> StoredEntry {
    ingested(path, Kind::Symlink { target: target.into() })
}

/// Applies an upper layer and returns how many components were walked for it.
fn walked(merge: &mut Merge, layer: Vec<StoredEntry>) -> u64 {
    let before = STEPS.get();
    merge.upper_layer(vec![Batch::new(layer)]).expect("applied");
    STEPS.get() - before
}

/// 38 links of 4,095 bytes, each with a long way to the next, the last to a directory 1,000 folders deep.
fn long_way() -> Vec<StoredEntry> {
    let deep = "d/".repeat(1000);
    let mut layer = vec![ingested(&deep, Kind::Directory), link("l38", deep.trim_end_matches('/'))];
    layer.extend((1..38).map(|index| {
        let next = format!("l{}", index + 1);
        link(&format!("l{index}"), &format!("{:/<width$}{next}", "d/..", width = 4095 - next.len()))
    }));
    layer
}

fn merged(layer: Vec<StoredEntry>) -> Merge {
    let mut merge = Merge::new(Limits::default());
    merge.lowest_layer([Ok(layer)]).expect("applied");
    merge
}

#[test]
fn a_long_way_is_walked_once_for_entries_in_a_row() {
    let mut merge = merged(long_way());
    let one = walked(&mut merge, vec![file("l1/f")]);
    let many = walked(&mut merge, (0..1000).map(|index| file(&format!("l1/f{index}"))).collect());
    assert!(one > 1000, "the way is long: {one}");
    assert!(many < one + 10 * 1000, "{many} steps for 1000 entries, {one} for one");
    // Nor does a name that is taken from something else than a directory or link send anybody that way again.
    let again = walked(&mut merge, (0..1000).map(|index| file(&format!("l1/f{}", index % 2))).collect());
    assert!(again < one + 10 * 1000, "{again} steps");
}

/// How a merge ends whose layers, over the long way, are these.
fn bounded(metadata_bytes: u64, layers: Vec<Vec<StoredEntry>>) -> Result<u64> {
    let limits = Limits { metadata_bytes, ..Limits::default() };
    let mut merge = Merge::new(limits);
    merge.lowest_layer([Ok(long_way())])?;
    let before = STEPS.get();
    for layer in layers {
        merge.upper_layer(vec![Batch::new(layer)])?;
    }
    Ok(STEPS.get() - before)
}

/// Two ways in turn are walked anew for each entry, so what they take counts: the work is bounded by the bytes.
#[test]
fn ways_that_are_walked_again_and_again_count() {
    let one = 37 * 4095;
    let files = |count: usize| (0..count).map(|index| file(&format!("l{}/f{index}", 1 + index % 2))).collect();
    let links = |count: usize| {
        let link = |index| ingested(&format!("h{index}"), Kind::HardLink { target: b"l1/f".to_vec() });
        [file("l38/f")].into_iter().chain((0..count).map(link)).collect()
    };
    let whiteouts = |count: usize| (0..count).map(|index| file(&format!("l{}/.wh.f", 1 + index % 2))).collect();
    let ways: [&dyn Fn(usize) -> Vec<StoredEntry>; 3] = [&files, &links, &whiteouts];
    for layer in ways {
        let few = bounded(20 * one, vec![layer(6)]).expect("few");
        assert!(few < 20 * one, "{few} steps");
        let error = bounded(20 * one, vec![layer(1000)]).expect_err("many");
        assert_eq!(error.code, Code::LimitExceeded);
        assert!(error.message.contains("link targets"), "{error}");
        assert!(error.context.path.is_some(), "the entry is named");
    }
}

/// What a user adds may meet names that lead the long way round.
#[test]
fn what_is_added_counts_the_ways_that_it_meets() {
    let adding = |count: usize| {
        let limits = Limits { metadata_bytes: 20 * 37 * 4095, ..Limits::default() };
        let mut merge = Merge::new(limits);
        merge.lowest_layer([Ok(long_way())])?;
        merge.additions(true);
        let added = (0..count).map(|_| ingested("l1", Kind::Directory)).collect();
        merge.upper_layer(vec![Batch::new(added)])
    };
    adding(6).expect("few");
    assert_eq!(adding(1000).expect_err("many").code, Code::LimitExceeded);
}

/// Every walk over a tree makes all its paths, so a path that a link makes long counts in full for each name.
#[test]
fn names_below_a_long_path_count_with_it() {
    let files = |count: usize| (0..count).map(|index| file(&format!("l38/f{index}"))).collect();
    assert!(bounded(1 << 20, vec![files(100)]).is_ok());
    let error = bounded(1 << 20, vec![files(2000)]).expect_err("2000 paths of 2,000 bytes");
    assert_eq!(error.code, Code::LimitExceeded);
}

fn names(tree: &Tree) -> Vec<String> {
    tree.walk().map(|step| String::from_utf8_lossy(&step.path).into_owned()).collect()
}

#[test]
fn a_directory_that_is_known_is_forgotten_when_a_way_changes() {
    let directory = |path: &str| ingested(path, Kind::Directory);
    let layer = vec![
        directory("a/"),
        directory("b/"),
        link("l", "a"),
        file("l/one"),
        link("l", "b"),
        file("l/two"),
        file("b"),
        directory("b/"),
        file("l/three"),
    ];
    let tree = merged(layer).finish().0;
    assert_eq!(names(&tree), ["", "a", "a/one", "b", "b/three", "l"]);
    // An entry that changes where its own folder's path leads: the second `p` is another folder than the first.
    let layer = vec![
        directory("q/r/"),
        directory("z/y/"),
        link("p", "q/r/.."),
        file("p/one"),
        link("p/r", "/z/y"),
        file("p/two"),
    ];
    assert_eq!(names(&merged(layer).finish().0), ["", "p", "q", "q/one", "q/r", "z", "z/two", "z/y"]);
    // A whiteout of the folder that the last entry of the layer below went to.
    let mut merge = merged(vec![file("a/b/one")]);
    walked(&mut merge, vec![file("a/.wh.b"), file("a/b/two")]);
    assert_eq!(names(&merge.finish().0), ["", "a", "a/b", "a/b/two"]);
}

#[test]
fn whiteouts_far_below_cost_their_paths() {
    let deep = "d/".repeat(2000);
    let files = (0..300).map(|index| file(&format!("{deep}f{index}")));
    let mut merge = merged(files.collect());
    let whiteouts = (0..200).map(|index| file(&format!("{deep}.wh.f{index}")));
    // Of directories half way down as well, in no order that helps.
    let others = (0..100).map(|index| file(&format!("{}.wh.f{index}", "d/".repeat(1000 + 7 * (index * 37 % 100)))));
    let layer: Vec<_> = whiteouts.chain(others).collect();
    let components: usize = layer.iter().map(|entry| entry.entry.path.split(|&byte| byte == b'/').count()).sum();
    let steps = walked(&mut merge, layer);
    assert!(steps <= 4 * components as u64, "{steps} steps for paths of {components} components");
    let left = merge.finish().0.walk().filter(|step| step.path.ends_with(b"f250")).count();
    assert_eq!(left, 1);
}

#[test]
fn whiteouts_through_a_long_way_walk_it_once() {
    let mut layer = long_way();
    layer.extend((0..1000).map(|index| file(&format!("l38/f{index}"))));
    let mut merge = merged(layer);
    let one = walked(&mut merge, vec![file("l1/.wh.f0")]);
    let many = walked(&mut merge, (1..1000).map(|index| file(&format!("l1/.wh.f{index}"))).collect());
    assert!(many < one + 10 * 1000, "{many} steps for 999 whiteouts, {one} for one");
    assert!(!merge.finish().0.walk().any(|step| step.path.ends_with(b"f7")));
}

/// A hash without a secret lets who writes an image choose names that all collide: the maps of an image's bytes are
/// ordered or have the standard library's random keys.
#[test]
fn no_map_has_a_hash_that_can_be_guessed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let crates = ["rustc-hash", "fxhash", "ahash", "fnv", "hashbrown", "foldhash", "nohash"];
    assert!(crates.iter().all(|name| !manifest.contains(name)), "a crate with a hash of its own");
    let mut folders = vec![folder.join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("merge/tests.rs") {
                files += 1;
                let text = std::fs::read_to_string(&path).expect("text");
                for own in ["BuildHasher for", "BuildHasherDefault", "with_hasher", "hash::Hasher"] {
                    assert!(!text.contains(own), "{} has a map with a hash of its own", path.display());
                }
            }
        }
    }
    assert!(files > 50);
}
