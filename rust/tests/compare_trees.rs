//! Trees beside each other: what is read to compare them, and that holes are zeros.

#[path = "support/trees.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod trees;

use std::sync::atomic::{AtomicU64, Ordering};

use ocifast_core::compare::{Side, compare};
use ocifast_core::contents::{Content, Contents};
use ocifast_core::error::Result;
use ocifast_core::same::content_digest;
use ocifast_core::tree::{InodeKind, Tree};
use proptest::prelude::*;
use trees::{Maker, Memory};

/// Counts the bytes that are read.
struct Counted<'a>(&'a Memory, AtomicU64);

impl Contents for Counted<'_> {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let read = self.0.read_at(content, offset, buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Paths and fields of the changes, and the bytes that were read of either side.
fn compared(one: &(Tree, Memory), other: &(Tree, Memory), shared: bool) -> (Vec<(String, String)>, [u64; 2]) {
    let counted = [Counted(&one.1, AtomicU64::new(0)), Counted(&other.1, AtomicU64::new(0))];
    let first = Side { tree: &one.0, contents: &counted[0] };
    let second = Side { tree: &other.0, contents: &counted[1] };
    let changes = compare(&first, &second, shared, false).expect("compared");
    let told = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let changes = changes.iter().map(|change| (told(&change.path), change.fields.join(" "))).collect();
    (changes, counted.map(|counted| counted.1.into_inner()))
}

#[test]
fn a_file_is_read_once_whatever_its_names() {
    let mut linked = Maker::new();
    linked.file("f00", &[7; 5000]);
    let mut copied = Maker::new();
    copied.file("f00", &[7; 5000]);
    for number in 1..50 {
        linked.link(format!("f{number:02}"), "f00");
        copied.file(format!("f{number:02}"), &[7; 5000]);
    }
    let (linked, copied) = (linked.finish().expect("made"), copied.finish().expect("made"));
    let (changes, read) = compared(&linked, &copied, false);
    assert_eq!(changes.len(), 49);
    assert!(changes.iter().all(|(_, fields)| fields == "hard_link"), "{changes:?}");
    assert_eq!(read, [5000, 50 * 5000]);
    let (_, read) = compared(&copied, &linked, false);
    assert_eq!(read, [50 * 5000, 5000]);
}

#[test]
fn nothing_is_read_of_what_both_have_from_one_place_or_in_other_sizes() {
    let mut maker = Maker::new();
    maker.file("a", &[1; 3000]).file("b", &[2; 3000]);
    let one = maker.finish().expect("made");
    let same = (one.0.clone(), Memory::default());
    assert_eq!(compared(&one, &same, true), (Vec::new(), [0, 0]));
    let mut maker = Maker::new();
    maker.file("a", &[1; 3001]).file("b", &[2; 2999]);
    let other = maker.finish().expect("made");
    let (changes, read) = compared(&one, &other, false);
    let fields = "size content".to_owned();
    assert_eq!(changes, [("a".to_owned(), fields.clone()), ("b".to_owned(), fields)]);
    assert_eq!(read, [0, 0]);
}

const SIZE: usize = 3000;

/// The bytes of one file, and a way to store it: which of its zeros are holes.
fn file() -> impl Strategy<Value = (Vec<u8>, Vec<bool>)> {
    let pieces = prop::collection::vec((0..SIZE, 1..700usize, 0..3u8), 0..5);
    let holes = prop::collection::vec((0..SIZE, 1..900usize), 0..6);
    (pieces, holes).prop_map(|(pieces, holes)| {
        let mut bytes = vec![0; SIZE];
        for (from, length, value) in pieces {
            bytes[from..(from + length).min(SIZE)].fill(value);
        }
        let mut stored = vec![true; SIZE];
        for (from, length) in holes {
            stored[from..(from + length).min(SIZE)].fill(false);
        }
        let stored = stored.iter().zip(&bytes).map(|(&stored, &byte)| stored || byte != 0).collect();
        (bytes, stored)
    })
}

/// The digest of a file that is stored so.
fn digest(bytes: &[u8], stored: &[bool], buffer: usize) -> String {
    let mut runs: Vec<(u64, &[u8])> = Vec::new();
    let mut at = 0;
    while at < SIZE {
        let end = (at..SIZE).find(|&index| stored[index] != stored[at]).unwrap_or(SIZE);
        if stored[at] {
            runs.push((at as u64, &bytes[at..end]));
        }
        at = end;
    }
    let mut maker = Maker::new();
    maker.sparse("f", SIZE as u64, &runs);
    let (tree, memory) = maker.finish().expect("made");
    let inode = tree.lookup(b"f", false).expect("there");
    let InodeKind::File(content) = &tree.inode(inode).kind else { unreachable!("a file") };
    content_digest(&memory, content, &mut vec![0; buffer]).expect("read").as_str().to_owned()
}

proptest! {
    #[test]
    fn digests_are_equal_when_bytes_are((bytes, one) in file(), (other_bytes, two) in file(), buffer in 512..5000usize) {
        let all = vec![true; SIZE];
        let plain = digest(&bytes, &all, 1 << 20);
        prop_assert_eq!(&digest(&bytes, &one, buffer), &plain);
        prop_assert_eq!(bytes == other_bytes, digest(&other_bytes, &two, buffer) == plain);
    }
}
