//! What the writer writes, the reader reads, whatever the pieces in which the bytes arrive.

mod tar_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use ocifast_core::entry::{Entry, Kind, Metadata, Mtime, Xattrs};
use ocifast_core::limits::Limits;
use ocifast_core::tar::{Member, MemberKind, Writer};
use proptest::prelude::*;
use tar_support::{Short, read_all};

fn member_kind(kind: &Kind) -> MemberKind<'_> {
    match kind {
        Kind::File { size } => MemberKind::File { size: *size },
        Kind::Directory => MemberKind::Directory,
        Kind::Symlink { target } => MemberKind::Symlink(target),
        Kind::HardLink { target } => MemberKind::HardLink(target),
        Kind::CharDevice { major, minor } => MemberKind::CharDevice { major: *major, minor: *minor },
        Kind::BlockDevice { major, minor } => MemberKind::BlockDevice { major: *major, minor: *minor },
        Kind::Fifo => MemberKind::Fifo,
    }
}

fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        let member = Member { path: &entry.path, metadata: &entry.metadata, kind: member_kind(&entry.kind) };
        writer.append(&member).expect("writable");
        writer.write_data(data).expect("writable");
    }
    writer.finish().expect("complete")
}

fn name(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => Just(b'a'), 2 => Just(b'/'), 1 => 1..=255_u8];
    // The borders of the header's fields, and anything else.
    let length = prop_oneof![Just(99), Just(100), Just(101), Just(155), Just(156), Just(256), Just(257), 1..longest];
    length.prop_flat_map(move |length| prop::collection::vec(byte.clone(), length))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    // A trailing slash makes a directory.
    name(400).prop_map(|mut path| {
        if path.ends_with(b"/") {
            path.push(b'x');
        }
        path
    })
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop::collection::vec(1..=255_u8, 1..40);
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let map = prop::collection::btree_map(name, value, 0..4);
    map.prop_map(|map: BTreeMap<_, _>| (!map.is_empty()).then(|| Arc::new(map)))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let id = prop_oneof![0..70_000_u32, Just(0o7777777), Just(0o10000000), any::<u32>()];
    let seconds =
        prop_oneof![0..2_000_000_000_i64, Just((1 << 33) - 1), Just(1 << 33), Just(i64::MIN), any::<i64>(), -5..5_i64];
    let nanoseconds = prop_oneof![Just(0), 0..1_000_000_000_u32];
    (0..=0o7777_u16, id.clone(), id, seconds, nanoseconds, xattrs()).prop_map(
        |(mode, uid, gid, seconds, nanoseconds, xattrs)| {
            let mtime = Mtime { seconds, nanoseconds };
            Metadata { mode, uid, gid, mtime, xattrs }
        },
    )
}

fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let length = prop_oneof![Just(0), Just(511), Just(512), Just(513), 0..3000_usize];
    let data = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    let device = || (0..4096_u32, 0..1_048_576_u32);
    let kind = prop_oneof![
        4 => data.prop_map(|data| (Kind::File { size: data.len() as u64 }, data)),
        2 => Just((Kind::Directory, Vec::new())),
        2 => name(400).prop_map(|target| (Kind::Symlink { target }, Vec::new())),
        2 => name(400).prop_map(|target| (Kind::HardLink { target }, Vec::new())),
        1 => device().prop_map(|(major, minor)| (Kind::CharDevice { major, minor }, Vec::new())),
        1 => device().prop_map(|(major, minor)| (Kind::BlockDevice { major, minor }, Vec::new())),
        1 => Just((Kind::Fifo, Vec::new())),
    ];
    (path(), kind, metadata()).prop_map(|(mut path, (kind, data), metadata)| {
        if kind == Kind::Directory {
            path.push(b'/');
        }
        (Entry { path, kind, metadata, offset: 0 }, data)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        entries in prop::collection::vec(entry(), 0..6),
        pieces in prop::collection::vec(1..1500_usize, 1..5),
    ) {
        let archive = write(&entries);
        prop_assert_eq!(&write(&entries), &archive, "writing is deterministic");
        let whole = read_all(&archive[..], &Limits::default()).expect("readable");
        let parts = read_all(Short::new(&archive, &pieces), &Limits::default()).expect("readable");
        prop_assert_eq!(&whole, &parts);
        let read: Vec<_> = whole.into_iter().map(|(entry, data)| (Entry { offset: 0, ..entry }, data)).collect();
        prop_assert_eq!(read, entries);
    }
}

#[test]
fn one_byte_at_a_time() {
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    let entry = Entry { path: b"n".repeat(300), kind: Kind::File { size: 700 }, metadata, offset: 0 };
    let archive = write(&[(entry, vec![7; 700])]);
    let whole = read_all(&archive[..], &Limits::default()).expect("readable");
    assert_eq!(read_all(Short::new(&archive, &[1]), &Limits::default()).expect("readable"), whole);
    assert_eq!(whole.len(), 1);
}
