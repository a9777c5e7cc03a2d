//! What users change in a tree, as lines: layers, what is added, the edit, the names that must come out.

#[path = "support/lines.rs"]
mod lines;

use std::collections::BTreeMap;
use std::sync::Arc;

use lines::{merge, names};
use ocifast_core::batch::StoredEntry;
use ocifast_core::edit::Edit;
use ocifast_core::entry::{Entry, Kind, Metadata, Mtime};
use ocifast_core::error::{Code, Error};
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::tree::{InodeKind, Tree};

type Lines = &'static [&'static str];

fn edited(lines: Lines, edit: &Edit) -> Result<(Tree, Vec<String>), Error> {
    let tree = merge(&[lines], 1, Limits::default())?;
    edit.apply(tree).map(|edited| (edited.tree, edited.unmatched))
}

fn excluding(patterns: Lines) -> Edit {
    Edit { exclude: patterns.iter().map(|&text| text.to_owned()).collect(), ..Edit::default() }
}

/// Directories and their modes.
fn directories(tree: &Tree) -> Vec<String> {
    let line = |step: ocifast_core::tree::Step| {
        let inode = tree.inode(step.inode);
        inode.children().map(|_| format!("/{} {:o}", step.path.escape_ascii(), inode.metadata.mode))
    };
    tree.walk().filter_map(line).collect()
}

#[test]
fn left_out() {
    let table: &[(&str, Lines, Lines, Lines, Lines)] = &[
        ("a name anywhere", &["a", "d/a", "d/b"], &["a"], &["d/b 3"], &[]),
        ("a name at the root", &["a", "d/a"], &["/a"], &["d/a 2"], &[]),
        ("a path is bound to the root", &["d/a", "e/d/a"], &["d/a"], &["e/d/a 2"], &[]),
        ("a directory alone", &["d/x", "e/d"], &["d/"], &["e/d 2"], &[]),
        ("what is in a directory, not itself", &["d/x", "d/e/y"], &["d/**"], &[], &[]),
        ("any depth", &["a/b/c.pyc", "c.pyc", "c.py"], &["**/*.pyc"], &["c.py 3"], &[]),
        ("a star stops at a slash", &["d/e/x", "d/x"], &["d/*x"], &["d/e/x 1"], &[]),
        ("taken back", &["doc/a", "doc/copyright"], &["doc/*", "!doc/copyright"], &["doc/copyright 2"], &[]),
        ("the last one counts", &["a"], &["!a", "a"], &[], &[]),
        ("nothing comes back below a directory", &["d/a", "d/b"], &["d", "!d/a"], &[], &[]),
        ("one name of two", &["a", "b = a"], &["a"], &["b 1"], &[]),
        ("a link is a name, not what it leads to", &["d/x", "l -> d"], &["l"], &["d/x 1"], &[]),
        ("a link is no directory", &["d/x", "l -> d"], &["l/"], &["d/x 1", "l -> d"], &["l/"]),
        ("nothing", &["a"], &["b", "a/c"], &["a 1"], &["b", "a/c"]),
        ("what another one left out is matched too", &["d/a"], &["d", "d/a"], &[], &[]),
        ("siblings of the same beginning", &["d/x", "d-e/x", "d.e"], &["/d"], &["d-e/x 2", "d.e 3"], &[]),
        ("braces are letters", &["a{b,c}", "ab", "{"], &["a{b,c}", "\\{"], &["ab 2"], &[]),
        ("a class", &["a1", "a{", "ab"], &["a[0-9{]"], &["ab 3"], &[]),
        ("a class that begins with its own end", &["a]", "a{", "ab"], &["a[]{]"], &["ab 3"], &[]),
        ("all but a class with its own end", &["a]", "a{", "ab"], &["a[!]{]"], &["a] 1", "a{ 2"], &[]),
        ("escaped", &["#a", "!b", "c"], &["\\#a", "\\!b"], &["c 3"], &[]),
    ];
    for (what, lines, patterns, expected, unmatched) in table {
        let (tree, left) = edited(lines, &excluding(patterns)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(names(&tree), *expected, "{what}");
        assert_eq!(left, *unmatched, "{what}");
    }
}

#[test]
fn names_that_are_no_text() {
    let entry = Entry { path: b"d/\xFFa".to_vec(), kind: Kind::Fifo, metadata: Metadata::default(), offset: 0 };
    let mut merge = Merge::new(Limits::default());
    merge.lowest_layer([Ok(vec![StoredEntry { entry, content: None }])]).expect("merged");
    let edited = excluding(&["d/?a"]).apply(merge.finish().0).expect("edited");
    assert_eq!(edited.tree.names(), 2);
}

#[test]
fn patterns_that_are_none() {
    for text in ["", "# comment", "[z-a]", "   "] {
        let error = edited(&["a"], &excluding(&[]))
            .and_then(|(tree, _)| Edit { exclude: vec![text.to_owned()], ..Edit::default() }.apply(tree).map(drop));
        let error = error.expect_err(text);
        assert_eq!(error.code, Code::Usage, "{text}");
        assert!(error.message.contains("is no pattern for paths"), "{}", error.message);
    }
}

#[test]
fn subtrees() {
    let lines: Lines = &["a", "d/x", "d/e/y", "l -> d/e", "h = d/x", "f"];
    let table: &[(&str, Lines)] = &[
        ("", &["a 1", "d/e/y 3", "d/x 2", "f 6", "h 2", "l -> d/e"]),
        ("/d", &["e/y 3", "x 2"]),
        ("d/e/", &["y 3"]),
        ("l", &["y 3"]),
    ];
    for (path, expected) in table {
        let edit = Edit { subtree: Some(path.as_bytes().to_vec()), ..Edit::default() };
        let (tree, _) = edited(lines, &edit).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(names(&tree), *expected, "{path}");
        let counted = tree.walk().count() as u64;
        assert_eq!(tree.names(), counted, "{path}");
    }
    for (path, code) in [("nowhere", Code::PathNotFound), ("f", Code::Usage), ("../..", Code::EntryRefused)] {
        let edit = Edit { subtree: Some(path.as_bytes().to_vec()), ..Edit::default() };
        assert_eq!(edited(lines, &edit).expect_err(path).code, code, "{path}");
    }
}

#[test]
fn a_subtree_has_the_metadata_of_its_directory_and_links_count_what_is_left() {
    let edit = Edit { subtree: Some(b"d".to_vec()), ..Edit::default() };
    let (tree, _) = edited(&["d/x", "h = d/x"], &edit).expect("edited");
    let x = tree.lookup(b"x", false).expect("there");
    assert_eq!(tree.inode(x).nlink, 1);
    assert_eq!(directories(&tree), ["/ 755"]);
}

#[test]
fn places_for_mounts() {
    let edit = Edit { mount_points: Some(Mtime { seconds: 7, nanoseconds: 0 }), ..Edit::default() };
    let (tree, _) = edited(&["proc -> x", "tmp", "run/"], &edit).expect("edited");
    assert_eq!(names(&tree), ["proc -> x", "tmp 2"]);
    assert_eq!(directories(&tree), ["/ 755", "/dev 755", "/run 0", "/sys 555"]);
    let dev = tree.lookup(b"dev", false).expect("there");
    assert_eq!(tree.inode(dev).metadata.mtime.seconds, 7);
    let (tree, _) = edited(&[], &edit).expect("edited");
    assert_eq!(directories(&tree), ["/ 755", "/dev 755", "/proc 555", "/run 755", "/sys 555", "/tmp 1777"]);
}

/// User, group and mode.
type Owned = (u32, u32, u16);

/// A tree of one file with an owner, a mode and attributes.
fn owned(uid: u32, gid: u32, mode: u16, xattrs: &[(&str, &[u8])]) -> Tree {
    let set: BTreeMap<_, _> = xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
    let metadata = Metadata { mode, uid, gid, xattrs: (!set.is_empty()).then(|| Arc::new(set)), ..Metadata::default() };
    let entry = Entry { path: b"f".to_vec(), kind: Kind::Fifo, metadata, offset: 0 };
    let mut merge = Merge::new(Limits::default());
    merge.lowest_layer([Ok(vec![StoredEntry { entry, content: None }])]).expect("merged");
    merge.finish().0
}

fn file(tree: &Tree) -> &Metadata {
    &tree.inode(tree.lookup(b"f", false).expect("there")).metadata
}

#[test]
fn owners() {
    let table: &[(Edit, Owned, Owned)] = &[
        (Edit { owner: Some((5, 6)), ..Edit::default() }, (1, 2, 0o6755), (5, 6, 0o755)),
        (Edit { owner: Some((1, 2)), ..Edit::default() }, (1, 2, 0o6755), (1, 2, 0o6755)),
        (Edit { id_offset: 100_000, ..Edit::default() }, (0, 2, 0o4755), (100_000, 100_002, 0o4755)),
        (Edit { owner: Some((5, 6)), id_offset: 10, ..Edit::default() }, (0, 0, 0o644), (15, 16, 0o644)),
    ];
    for (edit, (uid, gid, mode), expected) in table {
        let tree = edit.apply(owned(*uid, *gid, *mode, &[])).expect("edited").tree;
        let found = file(&tree);
        assert_eq!((found.uid, found.gid, found.mode), *expected, "{edit:?}");
        let root = &tree.inode(tree.root()).metadata;
        assert_eq!(root.uid, edit.owner.map_or(0, |(uid, _)| uid) + edit.id_offset, "{edit:?}");
    }
}

#[test]
fn ids_that_leave_32_bits() {
    let edit = Edit { id_offset: 10, ..Edit::default() };
    let error = edit.apply(owned(u32::MAX - 5, 0, 0o644, &[])).expect_err("refused");
    assert_eq!(error.code, Code::Usage);
    assert_eq!(error.message, "/f: the owner 4294967290:0 and 10 more is no id of 32 bits");
    let acl = [&[2, 0, 0, 0, 2, 0, 7, 0][..], &u32::MAX.to_le_bytes()].concat();
    let error = edit.apply(owned(0, 0, 0o644, &[("system.posix_acl_access", &acl)])).expect_err("refused");
    assert_eq!(error.message, "/f: an id in its attributes and 10 more is no id of 32 bits");
}

/// linux/posix_acl_xattr.h and linux/capability.h, by hand.
#[test]
fn ids_in_attributes() {
    let acl = |user: u32, group: u32| {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        [&[2, 0, 0, 0][..], &entry(1, u32::MAX), &entry(2, user), &entry(4, u32::MAX), &entry(8, group)].concat()
    };
    let capability = |magic: u32, root: Option<u32>| {
        let root = root.map(u32::to_le_bytes);
        [&magic.to_le_bytes()[..], &[0; 16], root.as_ref().map_or(&[][..], |root| root)].concat()
    };
    let table: &[(&str, Vec<u8>, Vec<u8>)] = &[
        ("system.posix_acl_access", acl(1, 2), acl(1001, 1002)),
        ("system.posix_acl_default", acl(0, 7), acl(1000, 1007)),
        ("system.posix_acl_access", b"odd".to_vec(), b"odd".to_vec()),
        ("security.capability", capability(0x0200_0001, None), capability(0x0300_0001, Some(1000))),
        ("security.capability", capability(0x0300_0000, Some(5)), capability(0x0300_0000, Some(1005))),
        ("security.capability", b"odd".to_vec(), b"odd".to_vec()),
        ("user.other", acl(1, 2), acl(1, 2)),
    ];
    for (name, before, after) in table {
        let edit = Edit { id_offset: 1000, ..Edit::default() };
        let tree = edit.apply(owned(0, 0, 0o644, &[(name, before)])).expect("edited").tree;
        let set = file(&tree).xattrs.clone().expect("attributes");
        assert_eq!(set.get(name.as_bytes()), Some(after), "{name}");
    }
}

#[test]
fn added() {
    let table: &[(&str, Lines, Lines, Lines)] = &[
        ("a file", &["a"], &["b", "d/e/c"], &["a 1", "b 2", "d/e/c 3"]),
        ("over a file", &["a"], &["a"], &["a 2"]),
        ("over a link to a file", &["t", "a -> t"], &["a"], &["a 3", "t 1"]),
        ("over a link to nothing", &["a -> t"], &["a"], &["a 2"]),
        ("a folder keeps what is there", &["d/a"], &["d/", "d/b"], &["d/a 1", "d/b 3"]),
        (
            "a folder behind a link",
            &["usr/lib/a", "lib -> usr/lib"],
            &["lib/", "lib/b"],
            &["lib -> usr/lib", "usr/lib/a 1", "usr/lib/b 4"],
        ),
        ("a folder behind a link to nothing", &["l -> d"], &["l/", "l/x"], &["d/x 3", "l -> d"]),
        ("a link", &["a"], &["b -> a"], &["a 1", "b -> a"]),
    ];
    for (what, image, added, expected) in table {
        let tree = merge(&[image, added], 1, Limits::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(names(&tree), *expected, "{what}");
    }
    let tree = merge(&[&["d/", "d/e/"], &["d/", "n/"]], 1, Limits::default()).expect("merged");
    let kinds = tree.walk().filter(|step| matches!(tree.inode(step.inode).kind, InodeKind::Directory(_)));
    assert_eq!(kinds.count(), 4);
}

#[test]
fn an_added_folder_leaves_the_mode_of_the_one_that_is_there() {
    let directory = |mode| {
        let metadata = Metadata { mode, ..Metadata::default() };
        let entry = Entry { path: b"tmp".to_vec(), kind: Kind::Directory, metadata, offset: 0 };
        StoredEntry { entry, content: None }
    };
    for (adding, mode) in [(true, 0o1777), (false, 0o755)] {
        let mut merge = Merge::new(Limits::default());
        merge.lowest_layer([Ok(vec![directory(0o1777)])]).expect("merged");
        merge.additions(adding);
        merge.upper_layer(vec![ocifast_core::batch::Batch::new(vec![directory(0o755)])]).expect("merged");
        assert_eq!(directories(&merge.finish().0), ["/ 755".to_owned(), format!("/tmp {mode:o}")]);
    }
}

#[test]
fn additions_that_are_refused() {
    let table: &[(Lines, Lines, &str)] = &[
        (&["sbin/x"], &["sbin"], "the image has a directory there; end the destination with a slash"),
        (&["usr/sbin/x", "sbin -> usr/sbin"], &["sbin"], "the image has a directory there"),
        (&["a"], &["a/"], "a folder cannot be added where the image has a file"),
        (&["a", "l -> a"], &["l/"], "a folder cannot be added where the image has a file"),
        (&["a"], &["a/b"], "a parent of the path is not a directory"),
    ];
    for (image, added, expected) in table {
        let error = merge(&[image, added], 1, Limits::default()).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
