//! Cases of the merge that a random layer rarely meets, each with the tree that must come out.

#[path = "support/lines.rs"]
mod lines;

use lines::names;
use ocifast_core::error::{Code, Error};
use ocifast_core::limits::Limits;
use ocifast_core::tree::Tree;

fn merge(layers: &[&[&str]], limits: Limits) -> Result<Tree, Error> {
    lines::merge(layers, layers.len(), limits)
}

/// Whatever way a name takes into the tree, it is one that a filesystem can have.
#[test]
fn no_name_comes_in_that_no_filesystem_has() {
    let long = "z".repeat(256);
    let most = "z".repeat(255);
    // Layers whose last entry makes a directory or a file of the name.
    type Way = fn(&str) -> Vec<Vec<String>>;
    let ways: &[Way] = &[
        |name| vec![vec![name.into()]],
        |name| vec![vec![format!("{name}/f")]],
        |name| vec![vec![format!("l -> {name}"), "l/f".into()]],
        |name| vec![vec![format!("l -> /{name}/"), "l/f".into()]],
        |name| vec![vec![format!("l -> a/../{name}/b"), "l/f".into()]],
        |name| vec![vec![format!("l -> {name}"), "m -> l/b".into(), "m/f".into()]],
        |name| vec![vec![format!("l -> {name}"), "t".into(), "l/h = t".into()]],
        |name| vec![vec![format!("l -> {name}"), "l/h = t".into(), "t".into()]],
        |name| vec![vec!["t".into(), format!("{name} = t")]],
        |name| vec![vec![format!("{name} = t"), "t".into()]],
        |name| vec![vec![format!("l -> {name}")], vec!["l/f".into()]],
        |name| vec![vec!["t".into()], vec![format!("l -> {name}"), "l/".into(), format!("l/{name}/")]],
    ];
    for (index, way) in ways.iter().enumerate() {
        let tree = |name: &str| {
            let layers = way(name);
            let layers: Vec<Vec<&str>> =
                layers.iter().map(|layer| layer.iter().map(String::as_str).collect()).collect();
            merge(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>(), Limits::default())
        };
        assert!(tree(&most).is_ok(), "{index}");
        let error = tree(&long).expect_err("refused");
        assert_eq!(error.code, Code::EntryRefused, "{index}: {error}");
        assert!(error.message.contains("longer than 255 bytes"), "{index}: {error}");
    }
    // What is not there has no name: a whiteout or a hard link through the target takes nothing in.
    let layers: &[&[&str]] = &[&["f"], &[&format!("l -> {long}"), "l/.wh.f"]];
    assert!(merge(layers, Limits::default()).is_ok());
    for target in [4095, 4096] {
        let link = format!("l -> {}", "t".repeat(target));
        let code = merge(&[&[&link]], Limits::default()).err().map(|error| error.code);
        assert_eq!(code, (target > 4095).then_some(Code::EntryRefused));
    }
}

type Layers = &'static [&'static [&'static str]];

#[test]
fn trees() {
    let table: &[(&str, Layers, &[&str])] = &[
        (
            "an opaque directory in a link's place leaves alone what the link led to",
            &[&["usr/lib/libc", "lib -> usr/lib"], &["lib/", "lib/.wh..wh..opq", "lib/new"]],
            &["lib/new 5", "usr/lib/libc 1"],
        ),
        ("a whiteout in such a directory too", &[&["b/x", "a -> b"], &["a/", "a/.wh.x"]], &["b/x 1"]),
        (
            "a whiteout behind a link that is hidden itself, first",
            &[&["b/x", "a -> b"], &[".wh.a", "a/.wh.x"]],
            &["b/x 1"],
        ),
        (
            "a whiteout behind a link that is hidden itself, last",
            &[&["b/x", "a -> b"], &["a/.wh.x", ".wh.a"]],
            &["b/x 1"],
        ),
        (
            "a whiteout behind a link in a directory that is opaque",
            &[&["b/x", "d/a -> ../b"], &["d/.wh..wh..opq", "d/a/.wh.x", "d/a/y"]],
            &["b/x 1", "d/a/y 5"],
        ),
        ("a whiteout behind a link that stays", &[&["b/x", "b/y", "a -> b"], &["a/.wh.x"]], &["a -> b", "b/y 2"]),
        ("a whiteout that goes round in links", &[&["a -> a"], &["a/", "a/.wh..wh..opq", "a/x"]], &["a/x 4"]),
        (
            "a link takes the file that its own layer brings, not the hidden one",
            &[&["d/x"], &["a = d/x", "d/", "d/.wh..wh..opq", "d/x"]],
            &["a 5", "d/x 5"],
        ),
        ("a link takes the hidden file where nothing replaces it", &[&["t"], &[".wh.t", "h = t"]], &["h 1"]),
        ("links on links on a hidden file", &[&["t"], &["i = h", "h = t", ".wh.t"]], &["h 1", "i 1"]),
        ("a chain of late links", &[&["c = b", "b = a", "a"]], &["a 3", "b 3", "c 3"]),
        (
            "a late link through a late link to a link",
            &[&["x = l/f", "l = s", "s -> d", "d/f"]],
            &["d/f 4", "l -> d", "s -> d", "x 4"],
        ),
        ("a late link's place in a directory that moved", &[&["l -> d", "l/x = t", "l/", "t"]], &["d/x 4", "t 4"]),
        ("a link over its own file", &[&["a", "a = a"]], &["a 1"]),
    ];
    for (what, layers, expected) in table {
        let tree = merge(layers, Limits::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(names(&tree), *expected, "{what}");
    }
}

#[test]
fn whiteouts_of_the_longest_names() {
    for length in [251, 252, 255] {
        let name = "n".repeat(length);
        let whiteout = format!(".wh.{name}");
        let tree = merge(&[&[&name, "b"], &[&whiteout]], Limits::default()).expect("merged");
        assert_eq!(names(&tree), ["b 2"], "{length}");
    }
    // Neither the entry nor what it names may be longer than a name can be.
    let (long, below) = (format!(".wh.{}", "n".repeat(256)), format!(".wh.{}/x", "n".repeat(255)));
    for entry in [&long[..], &below, &format!("a = {long}"), &format!("a = {below}")] {
        assert_eq!(merge(&[&["b"], &[entry]], Limits::default()).expect_err(entry).code, Code::EntryRefused);
    }
}

#[test]
fn refused() {
    let table: &[(&str, Layers)] = &[
        ("links to each other", &[&["a = b", "b = a"]]),
        ("a link to nothing", &[&["a = b"]]),
        ("a link to a directory", &[&["d/", "a = d"]]),
        ("a link to a hidden directory", &[&["d/"], &[".wh.d", "a = d"]]),
        ("a path behind a file", &[&["f", "f/x"]]),
        ("a path round in links", &[&["a -> b", "b -> a", "a/x"]]),
    ];
    for (what, layers) in table {
        let error = merge(layers, Limits::default()).expect_err(what);
        assert_eq!(error.code, Code::EntryRefused, "{what}");
    }
}

/// Work grows with the number of links, in whatever order they hang on each other.
#[test]
fn a_long_chain_of_late_links() {
    let count = 100_000;
    let mut layer: Vec<String> = (0..count).map(|index| format!("h{index} = h{}", index + 1)).collect();
    layer.push(format!("h{count}"));
    let lines: Vec<&str> = layer.iter().map(String::as_str).collect();
    let tree = merge(&[&lines], Limits::default()).expect("merged");
    assert_eq!(tree.names(), count + 2);
}

#[test]
fn directories_that_only_paths_name_count() {
    let limits = Limits { entries: 100, ..Limits::default() };
    let deep = |first: usize| format!("{first}/{}f", "a/".repeat(60));
    let (one, two) = (deep(1), deep(2));
    assert!(merge(&[&[&one, "a"]], limits.clone()).is_ok());
    let error = merge(&[&[&one, &two, "a"]], limits).expect_err("limited");
    assert_eq!(error.code, Code::LimitExceeded);
}

#[test]
fn links_lead_no_deeper_than_paths_may() {
    let limits = Limits { depth: 50, ..Limits::default() };
    let target = format!("l -> {}", "a/".repeat(60));
    let error = merge(&[&[&target, "l/x"]], limits).expect_err("limited");
    assert_eq!(error.code, Code::LimitExceeded);
}
