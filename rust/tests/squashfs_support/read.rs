//! Reads a squashfs image, as the format is described and nothing else: an opinion independent of the writer's. What is
//! wrong ends in a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Read;

use ocifast_core::digest::Digest;

const NONE: u64 = 0xffff_ffff;

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut value = [0; 8];
    value[..length].copy_from_slice(&bytes[at..at + length]);
    u64::from_le_bytes(value)
}

/// An inode as the image has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    pub reference: u64,
    /// The type's number, from 8 on the long forms.
    pub kind: u64,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub number: u64,
    pub nlink: u64,
    pub size: u64,
    /// First block, device, or where a listing begins.
    pub start: u64,
    pub sparse: u64,
    /// Lengths of blocks as they stand.
    pub blocks: Vec<u64>,
    pub fragment: u64,
    pub offset: u64,
    pub parent: u64,
    /// Where a long listing can be entered: offset in it, block, name.
    pub index: Vec<(u64, u64, Vec<u8>)>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What reading a whole image says.
pub struct Found {
    /// The canonical text, `docs/dump.md`.
    pub dump: String,
    /// By path.
    pub inodes: BTreeMap<String, Inode>,
    pub fragments: usize,
    pub sets: usize,
}

/// Metadata unpacked: plain bytes, and where each block begins, stored and plain.
struct Run {
    plain: Vec<u8>,
    starts: BTreeMap<u64, usize>,
}

impl Run {
    fn at(&self, reference: u64) -> usize {
        self.starts[&(reference >> 16)] + (reference & 0xffff) as usize
    }
}

pub struct Image<'a> {
    bytes: &'a [u8],
    compressor: u64,
    block: u64,
    inodes: Run,
    directories: Run,
    fragments: Vec<(u64, u64)>,
    ids: Vec<u64>,
    sets: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Blocks that were unpacked, by place.
    unpacked: BTreeMap<u64, Vec<u8>>,
}

fn unpack(compressor: u64, stored: &[u8], most: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    match compressor {
        1 => _ = flate2::read::ZlibDecoder::new(stored).read_to_end(&mut plain).expect("zlib"),
        4 => _ = liblzma::read::XzDecoder::new(stored).read_to_end(&mut plain).expect("xz"),
        5 => plain = lz4_flex::block::decompress(stored, most).expect("lz4"),
        6 => zstd::stream::copy_decode(stored, &mut plain).expect("zstd"),
        other => panic!("compressor {other}"),
    }
    assert!(plain.len() <= most && stored.len() < plain.len(), "{} of {}", stored.len(), plain.len());
    plain
}

impl<'a> Image<'a> {
    /// A block of metadata; its plain bytes and where the next one begins.
    fn metadata(bytes: &[u8], compressor: u64, at: u64) -> (Vec<u8>, u64) {
        let head = number(bytes, at as usize, 2);
        let length = head & 0x7fff;
        let stored = &bytes[at as usize + 2..][..length as usize];
        let plain = if head & 0x8000 == 0 { unpack(compressor, stored, 8192) } else { stored.to_vec() };
        assert!(!plain.is_empty() && plain.len() <= 8192);
        (plain, at + 2 + length)
    }

    fn run(bytes: &[u8], compressor: u64, from: u64, to: u64) -> Run {
        let mut run = Run { plain: Vec::new(), starts: BTreeMap::new() };
        let mut at = from;
        while at < to {
            assert_eq!(run.plain.len() % 8192, 0, "a short block before the last one");
            run.starts.insert(at - from, run.plain.len());
            let (plain, next) = Self::metadata(bytes, compressor, at);
            run.plain.extend(plain);
            at = next;
        }
        assert_eq!(at, to, "the end of a run");
        run.starts.insert(to - from, run.plain.len());
        run
    }

    /// A table of `count` entries of `size` bytes with its index at `index`; also where its first block is.
    fn table(bytes: &[u8], compressor: u64, index: u64, count: u64, size: u64) -> (Vec<u8>, u64) {
        let blocks = (count * size).div_ceil(8192);
        let (mut plain, mut first, mut end) = (Vec::new(), index, None);
        for block in 0..blocks {
            let at = number(bytes, (index + 8 * block) as usize, 8);
            assert!(end.is_none_or(|end| end == at), "blocks of a table follow each other");
            first = first.min(at);
            let (part, next) = Self::metadata(bytes, compressor, at);
            plain.extend(part);
            end = Some(next);
        }
        assert!(end.is_none_or(|end| end == index), "the index follows the blocks");
        assert_eq!(plain.len() as u64, count * size);
        (plain, first)
    }
}

pub fn read(bytes: &[u8]) -> Found {
    assert_eq!(&bytes[..4], b"hsqs");
    let field = |at, length| number(bytes, at, length);
    let (count, block, fragments, compressor) = (field(4, 4), field(12, 4), field(16, 4), field(20, 2));
    assert_eq!((1 << field(22, 2), field(28, 2), field(30, 2)), (block, 4, 0));
    let used = field(40, 8);
    assert!(used <= bytes.len() as u64 && bytes.len().is_multiple_of(4096));
    assert!(bytes[used as usize..].iter().all(|&byte| byte == 0));
    let [ids, xattrs, inode_table, directory_table, fragment_table, export_table] =
        [48, 56, 64, 72, 80, 88].map(|at| field(at, 8));

    // Linux wants each table to end where the next one begins.
    let (id_table, id_start) = Image::table(bytes, compressor, ids, field(26, 2), 4);
    let (export, export_start) = Image::table(bytes, compressor, export_table, count, 8);
    let (fragment_entries, fragment_start) = Image::table(bytes, compressor, fragment_table, fragments, 16);
    assert_eq!(export_table + 8 * (count * 8).div_ceil(8192), id_start);
    assert_eq!(fragment_table + 8 * (fragments * 16).div_ceil(8192), export_start);
    let after_ids = ids + 8 * (field(26, 2) * 4).div_ceil(8192);
    let mut sets = Vec::new();
    if xattrs == u64::MAX {
        assert_eq!(after_ids, used);
    } else {
        let (pairs_start, set_count) = (field(xattrs as usize, 8), field(xattrs as usize + 8, 4));
        assert_eq!(after_ids, pairs_start);
        assert_eq!(xattrs + 16 + 8 * (set_count * 16).div_ceil(8192), used);
        // Behind the head of the table is its index.
        let mut moved = bytes.to_vec();
        moved.drain(xattrs as usize..xattrs as usize + 16);
        let (entries, first) = Image::table(&moved, compressor, xattrs, set_count, 16);
        let pairs = Image::run(bytes, compressor, pairs_start, first);
        sets = entries.chunks(16).map(|entry| read_set(&pairs, entry)).collect();
        assert_eq!(sets.iter().collect::<BTreeSet<_>>().len(), sets.len(), "a set twice");
    }
    let mut image = Image {
        bytes,
        compressor,
        block,
        inodes: Image::run(bytes, compressor, inode_table, directory_table),
        directories: Image::run(bytes, compressor, directory_table, fragment_start),
        fragments: fragment_entries.chunks(16).map(|entry| (number(entry, 0, 8), number(entry, 8, 4))).collect(),
        ids: id_table.chunks(4).map(|id| number(id, 0, 4)).collect(),
        sets,
        unpacked: BTreeMap::new(),
    };
    assert_eq!(image.ids.iter().collect::<BTreeSet<_>>().len(), image.ids.len(), "an owner twice");
    let mut found =
        Found { dump: String::new(), inodes: BTreeMap::new(), fragments: fragments as usize, sets: image.sets.len() };
    let root = field(32, 8);
    image.walk(&mut found, root, count);
    let mut by_number = BTreeMap::new();
    let mut names = BTreeMap::<u64, u64>::new();
    for inode in found.inodes.values() {
        by_number.insert(inode.number, inode.reference);
        *names.entry(inode.reference).or_default() += 1;
    }
    let exported: Vec<u64> = export.chunks(8).map(|entry| number(entry, 0, 8)).collect();
    assert_eq!(by_number.keys().copied().collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
    assert_eq!(by_number.values().copied().collect::<Vec<_>>(), exported);
    for inode in found.inodes.values().filter(|inode| !matches!(inode.kind, 1 | 8)) {
        assert_eq!(inode.nlink, names[&inode.reference], "links of {inode:?}");
    }
    found
}

fn read_set(pairs: &Run, entry: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut at = pairs.at(number(entry, 0, 8));
    let mut set = BTreeMap::new();
    for _ in 0..number(entry, 8, 4) {
        let (kind, length) = (number(&pairs.plain, at, 2), number(&pairs.plain, at + 2, 2) as usize);
        let prefix = ["user.", "trusted.", "security."][(kind & 0xff) as usize];
        let name = [prefix.as_bytes(), &pairs.plain[at + 4..at + 4 + length]].concat();
        at += 4 + length;
        let size = number(&pairs.plain, at, 4) as usize;
        let mut place = at;
        if kind & 0x100 != 0 {
            assert_eq!(size, 8);
            place = pairs.at(number(&pairs.plain, at + 4, 8));
        }
        let value = pairs.plain[place + 4..][..number(&pairs.plain, place, 4) as usize].to_vec();
        at += 4 + size;
        assert!(set.insert(name, value).is_none(), "an attribute twice");
    }
    set
}

impl Image<'_> {
    fn inode(&self, reference: u64) -> Inode {
        let from = self.inodes.at(reference);
        let field = |at: usize, length| number(&self.inodes.plain, from + at, length);
        let id = |at| self.ids[field(at, 2) as usize];
        let mut inode = Inode {
            reference,
            kind: field(0, 2),
            mode: field(2, 2),
            uid: id(4),
            gid: id(6),
            mtime: field(8, 4),
            number: field(12, 4),
            nlink: 1,
            fragment: NONE,
            ..Inode::default()
        };
        let mut set = NONE;
        match inode.kind {
            1 => {
                (inode.start, inode.nlink, inode.size) = (field(16, 4), field(20, 4), field(24, 2));
                (inode.offset, inode.parent) = (field(26, 2), field(28, 4));
            }
            8 => {
                (inode.nlink, inode.size, inode.start) = (field(16, 4), field(20, 4), field(24, 4));
                (inode.parent, inode.offset, set) = (field(28, 4), field(34, 2), field(36, 4));
                let mut at = 40;
                for _ in 0..field(32, 2) {
                    let length = field(at + 8, 4) as usize + 1;
                    let name = self.inodes.plain[from + at + 12..][..length].to_vec();
                    inode.index.push((field(at, 4), field(at + 4, 4), name));
                    at += 12 + length;
                }
            }
            2 | 9 => {
                let blocks = if inode.kind == 2 {
                    (inode.start, inode.fragment, inode.offset) = (field(16, 4), field(20, 4), field(24, 4));
                    inode.size = field(28, 4);
                    32
                } else {
                    (inode.start, inode.size, inode.sparse) = (field(16, 8), field(24, 8), field(32, 8));
                    (inode.nlink, inode.fragment, inode.offset) = (field(40, 4), field(44, 4), field(48, 4));
                    set = field(52, 4);
                    56
                };
                let count =
                    if inode.fragment == NONE { inode.size.div_ceil(self.block) } else { inode.size / self.block };
                inode.blocks = (0..count as usize).map(|index| field(blocks + 4 * index, 4)).collect();
            }
            3 | 10 => {
                (inode.nlink, inode.size) = (field(16, 4), field(20, 4));
                inode.target = self.inodes.plain[from + 24..][..inode.size as usize].to_vec();
                if inode.kind == 10 {
                    set = field(24 + inode.size as usize, 4);
                }
            }
            4 | 5 | 11 | 12 => {
                (inode.nlink, inode.start) = (field(16, 4), field(20, 4));
                if inode.kind > 7 {
                    set = field(24, 4);
                }
            }
            6 | 13 => {
                inode.nlink = field(16, 4);
                if inode.kind > 7 {
                    set = field(20, 4);
                }
            }
            other => panic!("type {other}"),
        }
        if set != NONE {
            inode.xattrs = self.sets[set as usize].clone();
            assert!(!inode.xattrs.is_empty());
        }
        inode
    }

    /// A block of data.
    fn stored(&mut self, at: u64, length: u64, most: u64) -> Vec<u8> {
        let bytes = &self.bytes[at as usize..][..(length & 0xff_ffff) as usize];
        let compressor = self.compressor;
        let unpack = || if length & 1 << 24 == 0 { unpack(compressor, bytes, most as usize) } else { bytes.to_vec() };
        self.unpacked.entry(at).or_insert_with(unpack).clone()
    }

    /// A file's data, holes as zeros, and how many bytes of it are holes.
    fn data(&mut self, inode: &Inode) -> (Vec<u8>, u64) {
        let mut out = Vec::with_capacity(inode.size as usize);
        let (mut at, mut holes) = (inode.start, 0);
        for &length in &inode.blocks {
            let expected = self.block.min(inode.size - out.len() as u64);
            if length == 0 {
                holes += expected;
                out.resize(out.len() + expected as usize, 0);
                continue;
            }
            let plain = self.stored(at, length, self.block);
            assert_eq!(plain.len() as u64, expected);
            assert!(plain.iter().any(|&byte| byte != 0), "a block of zeros is stored");
            out.extend(plain);
            at += length & 0xff_ffff;
        }
        if inode.fragment != NONE {
            let (start, length) = self.fragments[inode.fragment as usize];
            let plain = self.stored(start, length, self.block);
            let rest = (inode.size - out.len() as u64) as usize;
            assert!(rest > 0);
            out.extend_from_slice(&plain[inode.offset as usize..][..rest]);
        }
        assert_eq!(out.len() as u64, inode.size);
        (out, holes)
    }

    /// Name, reference, number and type of each entry; the index leads to headers.
    fn entries(&self, inode: &Inode) -> Vec<(Vec<u8>, u64, u64, u64)> {
        let from = self.directories.at(inode.start << 16 | inode.offset);
        let (mut at, end) = (from, from + inode.size as usize - 3);
        let field = |at: usize, length| number(&self.directories.plain, at, length);
        let mut out: Vec<(Vec<u8>, u64, u64, u64)> = Vec::new();
        let mut index = inode.index.iter().peekable();
        while at < end {
            let (count, block, base) = (field(at, 4) + 1, field(at + 4, 4), field(at + 8, 4));
            assert!(count <= 256);
            if let Some((offset, start, name)) = index.peek()
                && from + *offset as usize == at
            {
                let length = field(at + 18, 2) as usize + 1;
                assert_eq!(&self.directories.plain[at + 20..][..length], &name[..]);
                let within = (inode.offset + offset) % 8192;
                assert_eq!(self.directories.at(start << 16 | within), at);
                index.next();
            }
            at += 12;
            for _ in 0..count {
                let (offset, distance, kind) = (field(at, 2), field(at + 2, 2) as u16 as i16, field(at + 4, 2));
                let length = field(at + 6, 2) as usize + 1;
                let name = self.directories.plain[at + 8..][..length].to_vec();
                assert!(out.last().is_none_or(|(last, ..)| *last < name), "the names are in order");
                out.push((name, block << 16 | offset, base.wrapping_add_signed(distance.into()), kind));
                at += 8 + length;
            }
        }
        assert_eq!((at, index.next()), (end, None));
        out
    }

    fn walk(&mut self, found: &mut Found, root: u64, count: u64) {
        let mut first = BTreeMap::<u64, String>::new();
        // Path, reference, number of the parent; a stack, for trees as deep as they like.
        let mut waiting = vec![(Vec::new(), root, count + 1)];
        while let Some((path, reference, parent)) = waiting.pop() {
            let shown = format!("/{}", escape(&path));
            let inode = self.inode(reference);
            let known = first.get(&reference).cloned();
            first.entry(reference).or_insert_with(|| shown.clone());
            let mut data = Vec::new();
            match inode.kind {
                1 | 8 => {
                    assert_eq!(inode.parent, parent, "parent of {shown}");
                    let entries = self.entries(&inode);
                    let subdirectories = entries.iter().filter(|(.., kind)| *kind == 1).count() as u64;
                    assert_eq!(inode.nlink, 2 + subdirectories, "links of {shown}");
                    for (name, child, number, kind) in entries.into_iter().rev() {
                        let there = self.inode(child);
                        assert_eq!((there.number, (there.kind - 1) % 7 + 1), (number, kind), "{}", escape(&name));
                        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        waiting.push(([&path, separator, &name].concat(), child, inode.number));
                    }
                }
                2 | 9 => {
                    let (bytes, holes) = self.data(&inode);
                    assert_eq!(holes, inode.sparse, "holes of {shown}");
                    data = bytes;
                }
                _ => {}
            }
            line(found, &shown, &inode, known.as_deref(), &data);
            found.inodes.insert(shown, inode);
        }
    }
}

fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, &byte| {
        match byte {
            b'\\' | b',' | b'=' => write!(out, "\\x{byte:02x}").expect("written"),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("written"),
        }
        out
    })
}

fn line(found: &mut Found, path: &str, inode: &Inode, first: Option<&str>, data: &[u8]) {
    let none = || "-".to_owned();
    let device = || format!("{}:{}", inode.start >> 8 & 0xfff, inode.start & 0xff | inode.start >> 12 & 0xfff00);
    let (kind, link, digest) = match (inode.kind - 1) % 7 + 1 {
        1 => ("directory", none(), none()),
        2 => ("file", none(), Digest::of(data).as_str()[7..].to_owned()),
        3 => ("symlink", escape(&inode.target), none()),
        4 => ("block", device(), none()),
        5 => ("char", device(), none()),
        6 => ("fifo", none(), none()),
        other => panic!("type {other}"),
    };
    let hex = |value: &Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let xattrs: Vec<String> =
        inode.xattrs.iter().map(|(name, value)| format!("{}={}", escape(name), hex(value))).collect();
    let xattrs = if xattrs.is_empty() { none() } else { xattrs.join(",") };
    let Inode { mode, uid, gid, mtime, .. } = inode;
    let first = first.unwrap_or("-");
    writeln!(found.dump, "{path} {kind} {mode:04o} {uid} {gid} {mtime}.000000000 {first} {link} {xattrs} {digest}")
        .expect("written");
}
