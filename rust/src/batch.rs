//! Entries on their way from a layer to the merge, packed: those of an upper layer wait for all lower ones. Of a path
//! only what differs from the one before is kept, so a folder stands once for the entries in it.

use std::sync::Arc;

use crate::contents::{Content, Extent};
use crate::entry::{Entry, Kind, Metadata, Mtime, Xattrs};

/// An entry whose data, if it has any, are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The entry as it stood in the archive.
    pub entry: Entry,
    /// Its content: `Some` exactly for regular files.
    pub content: Option<Content>,
}

impl StoredEntry {
    /// About how many bytes it takes before it is packed.
    pub fn weight(&self) -> usize {
        let Entry { path, kind, metadata, .. } = &self.entry;
        let target = match kind {
            Kind::Symlink { target } | Kind::HardLink { target } => target.len(),
            _ => 0,
        };
        let xattrs = metadata.xattrs.iter().flat_map(|set| set.iter()).map(|(name, value)| name.len() + value.len());
        let extents = self.content.as_ref().and_then(|content| content.extents.as_deref()).unwrap_or_default();
        size_of::<StoredEntry>() + path.len() + target + xattrs.sum::<usize>() + size_of_val(extents)
    }
}

/// How many bytes two paths begin with alike.
pub fn shared_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Some entries of one layer in the order of the archive, in little more memory than their names and link targets.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Box<[u8]>,
    /// Attributes of the entries that have some, in their order.
    xattrs: Box<[Xattrs]>,
    /// Extents of the sparse files among them, in their order.
    extents: Box<[Arc<[Extent]>]>,
}

/// Flags beside the type in an entry's first byte.
const WITH_XATTRS: u8 = 1 << 3;
const WITH_CONTENT: u8 = 1 << 4;
const SPARSE: u8 = 1 << 5;
const TYPE: u8 = WITH_XATTRS - 1;

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;

/// An entry of a batch, as far as it can be seen without unpacking it.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    /// Path as it stands in the archive.
    pub path: &'a [u8],
    /// Byte offset of the entry's first header.
    pub offset: u64,
    packed: Packed<'a>,
}

/// What follows an entry's path and offset.
#[derive(Clone, Copy, Debug)]
struct Packed<'a> {
    flags: u8,
    metadata: [u64; 5],
    target: &'a [u8],
    /// A device's numbers, or a file's size and nothing.
    numbers: [u64; 2],
    /// Layer, position and size of a content.
    content: [u64; 3],
}

impl<'a> EntryView<'a> {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.packed.flags & TYPE == DIRECTORY
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.packed.flags & TYPE == FILE
    }

    /// The target of a hard link.
    pub fn hard_link(&self) -> Option<&'a [u8]> {
        (self.packed.flags & TYPE == HARD_LINK).then_some(self.packed.target)
    }

    /// The target of a symbolic link.
    pub fn symlink(&self) -> Option<&'a [u8]> {
        (self.packed.flags & TYPE == SYMLINK).then_some(self.packed.target)
    }
}

impl Packed<'_> {
    fn kind(&self) -> Kind {
        let (target, [major, minor]) = (|| self.target.to_vec(), self.numbers.map(|number| number as u32));
        match self.flags & TYPE {
            FILE => Kind::File { size: self.numbers[0] },
            DIRECTORY => Kind::Directory,
            SYMLINK => Kind::Symlink { target: target() },
            HARD_LINK => Kind::HardLink { target: target() },
            CHAR_DEVICE => Kind::CharDevice { major, minor },
            BLOCK_DEVICE => Kind::BlockDevice { major, minor },
            FIFO => Kind::Fifo,
            other => unreachable!("no type of entry has the number {other}"),
        }
    }
}

impl Batch {
    /// Packs entries.
    pub fn new(entries: Vec<StoredEntry>) -> Self {
        let (mut bytes, mut xattrs, mut extents) = (Vec::new(), Vec::<Xattrs>::new(), Vec::new());
        let mut offset = 0;
        let mut before = Vec::new();
        for StoredEntry { entry, content } in entries {
            let Entry { path, kind, metadata, offset: start } = entry;
            let shared = shared_prefix(&before, &path);
            let (number, target, numbers): (u8, Option<&[u8]>, &[u64]) = match &kind {
                Kind::File { size } => (FILE, None, &[*size]),
                Kind::Directory => (DIRECTORY, None, &[]),
                Kind::Symlink { target } => (SYMLINK, Some(target), &[]),
                Kind::HardLink { target } => (HARD_LINK, Some(target), &[]),
                Kind::CharDevice { major, minor } => (CHAR_DEVICE, None, &[u64::from(*major), u64::from(*minor)]),
                Kind::BlockDevice { major, minor } => (BLOCK_DEVICE, None, &[u64::from(*major), u64::from(*minor)]),
                Kind::Fifo => (FIFO, None, &[]),
            };
            let mut flags = number;
            flags |= if metadata.xattrs.is_some() { WITH_XATTRS } else { 0 };
            flags |= if content.is_some() { WITH_CONTENT } else { 0 };
            flags |= if content.as_ref().is_some_and(|content| content.extents.is_some()) { SPARSE } else { 0 };
            bytes.push(flags);
            put(&mut bytes, shared as u64);
            put_bytes(&mut bytes, &path[shared..]);
            before = path;
            // Offsets ascend in an archive; wherever they do not, the difference wraps around and comes back.
            put(&mut bytes, start.wrapping_sub(offset));
            offset = start;
            let Metadata { mode, uid, gid, mtime, xattrs: set } = metadata;
            let seconds = (mtime.seconds << 1 ^ mtime.seconds >> 63) as u64;
            for number in [mode.into(), uid.into(), gid.into(), seconds, mtime.nanoseconds.into()] {
                put(&mut bytes, number);
            }
            if let Some(target) = target {
                put_bytes(&mut bytes, target);
            }
            for &number in numbers {
                put(&mut bytes, number);
            }
            if set.is_some() {
                // Labels are the same for many files in a row.
                let same = xattrs.last().filter(|last| **last == set).cloned();
                xattrs.push(same.unwrap_or(set));
            }
            if let Some(Content { layer, position, size, extents: runs }) = content {
                for number in [layer.into(), position, size] {
                    put(&mut bytes, number);
                }
                extents.extend(runs);
            }
        }
        Batch { bytes: bytes.into(), xattrs: xattrs.into(), extents: extents.into() }
    }

    /// Bytes that the packed entries take.
    pub fn packed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The entries, without unpacking them.
    pub fn views(&self) -> Views<'_> {
        Views { rest: Rest(&self.bytes), offset: 0, path: Vec::new() }
    }
}

/// See [`Batch::views`]. Lends one after the other, as the path of each is made from the one before.
#[derive(Debug)]
pub struct Views<'b> {
    rest: Rest<'b>,
    offset: u64,
    path: Vec<u8>,
}

impl Views<'_> {
    /// The next entry.
    pub fn next_view(&mut self) -> Option<EntryView<'_>> {
        let packed = self.rest.entry(&mut self.offset, &mut self.path)?;
        Some(EntryView { path: &self.path, offset: self.offset, packed })
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7F {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, what: &[u8]) {
    put(bytes, what.len() as u64);
    bytes.extend_from_slice(what);
}

/// What of a batch is still to be read.
#[derive(Debug)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.0[0];
            self.0 = &self.0[1..];
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn numbers<const N: usize>(&mut self) -> [u64; N] {
        std::array::from_fn(|_| self.number())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.number() as usize;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// The next entry, whose path and offset come into the place of those of the one before.
    fn entry(&mut self, offset: &mut u64, path: &mut Vec<u8>) -> Option<Packed<'a>> {
        let (&flags, rest) = self.0.split_first()?;
        self.0 = rest;
        path.truncate(self.number() as usize);
        path.extend_from_slice(self.bytes());
        *offset = offset.wrapping_add(self.number());
        let metadata = self.numbers();
        let kind = flags & TYPE;
        let target = if matches!(kind, SYMLINK | HARD_LINK) { self.bytes() } else { &[] };
        let numbers = match kind {
            FILE => [self.number(), 0],
            CHAR_DEVICE | BLOCK_DEVICE => self.numbers(),
            _ => [0; 2],
        };
        let content = if flags & WITH_CONTENT != 0 { self.numbers() } else { [0; 3] };
        Some(Packed { flags, metadata, target, numbers, content })
    }
}

impl IntoIterator for Batch {
    type Item = StoredEntry;
    type IntoIter = Unpacked;

    fn into_iter(self) -> Unpacked {
        Unpacked { batch: self, read: 0, offset: 0, path: Vec::new(), xattrs: 0, extents: 0 }
    }
}

/// The entries of a batch, one after the other.
#[derive(Debug)]
pub struct Unpacked {
    batch: Batch,
    /// Bytes, sets of attributes and lists of extents that are behind us.
    read: usize,
    offset: u64,
    path: Vec<u8>,
    xattrs: usize,
    extents: usize,
}

impl Iterator for Unpacked {
    type Item = StoredEntry;

    fn next(&mut self) -> Option<StoredEntry> {
        let mut rest = Rest(&self.batch.bytes[self.read..]);
        let packed = rest.entry(&mut self.offset, &mut self.path)?;
        self.read = self.batch.bytes.len() - rest.0.len();
        let has = |what| packed.flags & what != 0;
        let xattrs = if has(WITH_XATTRS) { self.batch.xattrs[self.xattrs].clone() } else { None };
        self.xattrs += usize::from(xattrs.is_some());
        let extents = has(SPARSE).then(|| Arc::clone(&self.batch.extents[self.extents]));
        self.extents += usize::from(extents.is_some());
        let [mode, uid, gid, seconds, nanoseconds] = packed.metadata;
        let seconds = (seconds >> 1) as i64 ^ -((seconds & 1) as i64);
        let mtime = Mtime { seconds, nanoseconds: nanoseconds as u32 };
        let metadata = Metadata { mode: mode as u16, uid: uid as u32, gid: gid as u32, mtime, xattrs };
        let [layer, position, size] = packed.content;
        let content = has(WITH_CONTENT).then_some(Content { layer: layer as u32, position, size, extents });
        let entry = Entry { path: self.path.clone(), kind: packed.kind(), metadata, offset: self.offset };
        Some(StoredEntry { entry, content })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            any::<u64>().prop_map(|size| Kind::File { size }),
            Just(Kind::Directory),
            bytes().prop_map(|target| Kind::Symlink { target }),
            bytes().prop_map(|target| Kind::HardLink { target }),
            any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
            any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
            Just(Kind::Fifo),
        ]
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        let sets = prop::option::of(prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3));
        (any::<(u16, u32, u32, i64, u32)>(), sets).prop_map(|((mode, uid, gid, seconds, nanoseconds), set)| Metadata {
            mode,
            uid,
            gid,
            mtime: Mtime { seconds, nanoseconds },
            xattrs: set.map(Arc::new),
        })
    }

    fn content() -> impl Strategy<Value = Content> {
        let extents = prop::collection::vec(any::<(u64, u64, u64)>(), 0..4);
        (any::<(u32, u64, u64)>(), prop::option::of(extents)).prop_map(|((layer, position, size), extents)| {
            let extent = |(offset, length, stored)| Extent { offset, length, stored };
            Content { layer, position, size, extents: extents.map(|runs| runs.into_iter().map(extent).collect()) }
        })
    }

    fn entry() -> impl Strategy<Value = StoredEntry> {
        let path = prop::collection::vec(any::<u8>(), 0..300);
        (path, kind(), metadata(), any::<u64>(), prop::option::of(content())).prop_map(
            |(path, kind, metadata, offset, content)| StoredEntry {
                entry: Entry { path, kind, metadata, offset },
                content,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_packed_comes_out_again(entries in prop::collection::vec(entry(), 0..20)) {
            let batch = Batch::new(entries.clone());
            let target = |view: &EntryView<'_>| view.hard_link().map(<[u8]>::to_vec);
            let (mut views, mut seen) = (batch.views(), Vec::new());
            while let Some(view) = views.next_view() {
                seen.push((view.path.to_vec(), view.offset, view.is_directory(), target(&view)));
            }
            let expected: Vec<_> = entries
                .iter()
                .map(|StoredEntry { entry, .. }| {
                    let target = match &entry.kind {
                        Kind::HardLink { target } => Some(target.clone()),
                        _ => None,
                    };
                    (entry.path.clone(), entry.offset, entry.kind == Kind::Directory, target)
                })
                .collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(batch.into_iter().collect::<Vec<_>>(), entries);
        }
    }

    #[test]
    fn a_folder_stands_once() {
        let folder = "f".repeat(10_000);
        let entry = |index: usize| {
            let (path, metadata) = (format!("{folder}/{index}").into_bytes(), Metadata::default());
            StoredEntry { entry: Entry { path, kind: Kind::Fifo, metadata, offset: 0 }, content: None }
        };
        let batch = Batch::new((0..100).map(entry).collect());
        assert!(batch.bytes.len() < 13_000, "{}", batch.bytes.len());
    }

    #[test]
    fn equal_attributes_in_a_row_are_kept_once() {
        let set = || Some(Arc::new(BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec())])));
        let entry = |path: &str| {
            let metadata = Metadata { xattrs: set(), ..Metadata::default() };
            StoredEntry { entry: Entry { path: path.into(), kind: Kind::Fifo, metadata, offset: 0 }, content: None }
        };
        let batch = Batch::new(["a", "b", "c"].map(entry).into());
        assert_eq!(batch.xattrs.iter().flatten().map(Arc::strong_count).collect::<Vec<_>>(), [3, 3, 3]);
    }
}
