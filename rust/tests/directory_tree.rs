//! A directory on disk is the tree: whichever way its files got there.
//!
//! Files of a folder are staged together and may come to their place with it, or one by one; small ones are made by other
//! threads than large ones. Each case says what it is there for.

#[path = "support/items.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod items;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use items::{Item, Part, bytes, merged};
use ocifast_core::contents::Contents;
use ocifast_core::entry::{Kind, permitted};
use ocifast_core::error::Result;
use ocifast_core::output::{DirectoryStore, Source, Target, WriteRequest, directory};
use ocifast_core::spool::SpoolStore;
use ocifast_core::tree::{InodeKind, Tree};
use proptest::prelude::*;
use rustix::process::{getegid, geteuid};

/// What is compared of one name. Link counts stand for which names are one inode.
type Line = (u32, u32, u32, i64, i64, u64, Vec<u8>, Option<Vec<u8>>);

/// Makes the tree in an empty folder.
fn make(tree: &Tree, store: &DirectoryStore, target: &Path, owners: bool) -> Result<()> {
    let options = directory::Options { owners, record: false };
    directory::write(WriteRequest::new(Source::new(tree, store), Target::Path(target), options)).map(drop)
}

/// The tree, as a directory of this user must show it.
fn expected(tree: &Tree, contents: &dyn Contents) -> BTreeMap<Vec<u8>, Line> {
    let mut lines = BTreeMap::new();
    for step in tree.walk() {
        let inode = tree.inode(step.inode);
        let wanted = (inode.metadata.uid, inode.metadata.gid);
        let owner = if geteuid().is_root() { wanted } else { (geteuid().as_raw(), getegid().as_raw()) };
        let mode = u32::from(permitted(inode.metadata.mode, owner == wanted));
        let (kind, data) = match &inode.kind {
            InodeKind::File(content) => {
                let mut data = vec![0; content.size as usize];
                assert_eq!(contents.read_at(content, 0, &mut data).expect("read"), data.len());
                (0o100_000, data)
            }
            InodeKind::Directory(_) => (0o040_000, Vec::new()),
            InodeKind::Symlink(target) => (0o120_000, target.to_vec()),
            InodeKind::Fifo => (0o010_000, Vec::new()),
            _ => unreachable!("no devices here"),
        };
        let mode = if kind == 0o120_000 { 0o777 } else { mode };
        let nlink = if kind == 0o040_000 { 0 } else { u64::from(inode.nlink) };
        let mtime = inode.metadata.mtime;
        let attribute = inode.metadata.xattrs.as_ref().and_then(|set| set.get(ATTRIBUTE)).cloned();
        let line = (kind | mode, owner.0, owner.1, mtime.seconds, mtime.nanoseconds.into(), nlink, data, attribute);
        lines.insert(step.path.clone(), line);
    }
    lines
}

/// The one that is used here.
const ATTRIBUTE: &[u8] = b"user.x";

fn attribute(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn look(folder: &Path, path: &[u8], lines: &mut BTreeMap<Vec<u8>, Line>) {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let status = fs::symlink_metadata(folder).expect("it is there");
    let data = if status.is_file() {
        fs::read(folder).expect("a file")
    } else if status.is_symlink() {
        fs::read_link(folder).expect("a link").into_os_string().into_vec()
    } else {
        Vec::new()
    };
    let nlink = if status.is_dir() { 0 } else { status.nlink() };
    let line = (
        status.mode(),
        status.uid(),
        status.gid(),
        status.mtime(),
        status.mtime_nsec(),
        nlink,
        data,
        attribute(folder),
    );
    lines.insert(path.to_vec(), line);
    if status.is_dir() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            let below = if path.is_empty() { name.as_bytes().to_vec() } else { [path, b"/", name.as_bytes()].concat() };
            look(&entry.path(), &below, lines);
        }
    }
}

/// Makes the directory of some layers, which arrive in the order of `order`, compares all of it and gives the names that
/// are left in the staging folder.
fn check(layers: &[Vec<Item>], order: &[usize], threads: usize) -> Result<Vec<String>> {
    let place = tempfile::tempdir().expect("a folder");
    for folder in ["staging", "target", "spool"] {
        fs::create_dir(place.path().join(folder)).expect("a folder");
    }
    let spool = Arc::new(SpoolStore::new(&place.path().join("spool"), layers.len()));
    let lines = expected(&merged(layers, order, &spool)?, &*spool);
    let store = Arc::new(DirectoryStore::new(&place.path().join("staging"), threads)?);
    let tree = merged(layers, order, &store)?;
    make(&tree, &store, &place.path().join("target"), geteuid().is_root())?;
    let left = fs::read_dir(place.path().join("staging")).expect("the staging folder");
    let mut left: Vec<String> =
        left.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    left.sort();
    // Names of links are counted, and those in the staging folder are not the tree's.
    fs::remove_dir_all(place.path().join("staging")).expect("removed");
    let mut seen = BTreeMap::new();
    look(&place.path().join("target"), b"", &mut seen);
    for (path, line) in &lines {
        assert_eq!(seen.get(path), Some(line), "{}", path.escape_ascii());
    }
    assert_eq!(seen.len(), lines.len(), "names that are not of the tree");
    Ok(left)
}

fn files(parent: &str, count: usize) -> Vec<Item> {
    (0..count)
        .map(|number| Item::file(format!("{parent}/f{number}"), bytes(number as u64, number * 37 % 3000)))
        .collect()
}

#[test]
fn folders_come_whole_where_all_of_their_files_stay() -> Result<()> {
    let mut layer = vec![Item::directory("a"), Item::directory("a/b"), Item::directory("c")];
    layer.extend(files("a", 300));
    layer.extend(files("a/b", 3));
    layer.extend(files("c", 200));
    layer.push(Item::symlink("a/link", "f1"));
    layer.push(Item::new("a/pipe", Kind::Fifo));
    assert_eq!(check(&[layer], &[0], 2)?, Vec::<String>::new(), "each folder of the layer became one of the tree");
    Ok(())
}

#[test]
fn files_come_one_by_one_where_a_folder_is_not_whole() -> Result<()> {
    let lower = [vec![Item::directory("a"), Item::directory("b")], files("a", 5), files("b", 5)].concat();
    // One is replaced, one removed, and one name leads to a folder now.
    let upper = vec![
        Item::file("a/f1", "other"),
        Item::whiteout("a", "f2"),
        Item::file("b/new", "new"),
        Item::directory("b/f4"),
        Item::file("b/f4/below", "below"),
    ];
    let left = check(&[lower, upper], &[0, 1], 2)?;
    assert!(left.iter().any(|name| name.starts_with("0-")), "what was replaced is left: {left:?}");
    Ok(())
}

#[test]
fn what_a_layer_says_twice() -> Result<()> {
    // The second content of a name, then a folder in the place of a file and a file in the place of a folder.
    let layer = vec![
        Item::directory("d"),
        Item::file("d/x", "first"),
        Item::file("d/x", "second"),
        Item::file("d/y", "y"),
        Item::file("e", "a file"),
        Item::directory("e"),
        Item::file("e/z", "z"),
    ];
    check(&[layer], &[0], 2).map(drop)
}

#[test]
fn links_modes_owners_times_and_attributes() -> Result<()> {
    let layer = vec![
        Item::directory("d").mode(0o1777),
        Item::file("d/one", "one"),
        Item::link("e/two", "d/one"),
        Item::link("d/three", "d/one"),
        Item::file("d/set-id", "s").mode(0o6755).owner(7, 8),
        Item::file("d/nothing", "n").mode(0),
        Item::file("d/group", "g").mode(0o664),
        Item::file("d/all", "a").mode(0o666),
        Item::file("d/early", "e").mtime(-1, 5),
        Item::file("d/late", "l").mtime(1 << 33, 999_999_999),
        Item::file("d/attribute", "x").xattr("user.x", "y").mode(0o444),
        Item::file("d/empty", ""),
        Item::symlink("d/link", "nowhere").owner(9, 10),
        Item::link("d/link-too", "d/link"),
        Item::file("d/whole", bytes(1, 64 << 10)),
        Item::file("d/large", bytes(2, (64 << 10) + 1)),
        Item::sparse("d/holes", vec![Part::Data(bytes(3, 100)), Part::Hole(5000), Part::Data(bytes(4, 10))]),
        Item::sparse("d/hole", vec![Part::Hole(70_000)]),
    ];
    check(&[layer], &[0], 3).map(drop)
}

#[test]
fn names_that_cannot_be_staged_under_themselves() -> Result<()> {
    let layer = vec![
        Item::file(vec![b'n'; 255], "long"),
        Item::file(b"not\xff\xfetext\n".to_vec(), "bytes"),
        Item::file("0.0", "as ours"),
        Item::file("0-1", "as ours"),
        Item::file("i3", "as ours"),
        Item::directory("0-2"),
        Item::file("0-2/0-1", "as ours"),
    ];
    check(&[layer], &[0], 1).map(drop)
}

#[test]
fn folders_beyond_the_bound_are_made_file_by_file() -> Result<()> {
    let layer: Vec<Item> = (0..30).map(|number| Item::file(format!("d{}/f{number}", number % 10), "x")).collect();
    let place = tempfile::tempdir().expect("a folder");
    let (staging, target) = (place.path().join("staging"), place.path().join("target"));
    fs::create_dir(&staging).expect("a folder");
    fs::create_dir(&target).expect("a folder");
    let store = Arc::new(DirectoryStore::new(&staging, 2)?.with_folders(4));
    let tree = merged(&[layer], &[0], &store)?;
    let entries = fs::read_dir(&staging).expect("the staging folder").map(|entry| entry.expect("an entry"));
    assert_eq!(entries.filter(|entry| entry.file_type().expect("a type").is_dir()).count(), 4);
    make(&tree, &store, &target, geteuid().is_root())?;
    for number in 0..30 {
        assert_eq!(fs::read(target.join(format!("d{}/f{number}", number % 10))).expect("a file"), b"x");
    }
    Ok(())
}

fn any_item() -> impl Strategy<Value = Item> {
    let name = (0..4u8, 0..5u8, any::<bool>()).prop_map(|(folder, name, deep)| match (folder, deep) {
        (0, _) => format!("n{name}"),
        (_, false) => format!("d{folder}/n{name}"),
        (_, true) => format!("d{folder}/e/n{name}"),
    });
    let size = prop_oneof![4 => 0..600usize, 1 => 65_000..66_000usize];
    (name, 0..7u8, size, 0..3u16, any::<u8>()).prop_map(|(path, kind, size, mode, seed)| match kind {
        0 => Item::directory(path),
        1 => Item::symlink(path, format!("to{size}")),
        2 => {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            Item::whiteout(if parent.is_empty() { "d1" } else { parent }, name)
        }
        _ => Item::file(path, bytes(seed.into(), size)).mode([0o644, 0o600, 0o4755][usize::from(mode)]),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers(layers in prop::collection::vec(prop::collection::vec(any_item(), 0..25), 1..4), threads in 1..4usize) {
        let order: Vec<usize> = (0..layers.len()).rev().collect();
        // A layer that no image may have is refused by both.
        if let Err(error) = check(&layers, &order, threads) {
            prop_assert!(error.to_string().contains("not a directory") || error.to_string().contains("refused"), "{error}");
        }
    }
}
