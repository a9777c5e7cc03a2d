//! Reads an erofs image, as the format's documentation says and nothing else: an opinion independent of the writer's.

use std::collections::BTreeMap;
use std::fmt::Write;

use ocifast_core::digest::Digest;

const BLOCK: u64 = 4096;

fn number(bytes: &[u8], at: u64, length: usize) -> u64 {
    let mut value = [0; 8];
    value[..length].copy_from_slice(&bytes[at as usize..at as usize + length]);
    u64::from_le_bytes(value)
}

/// An inode as the image has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub nid: u64,
    pub mode: u16,
    pub nlink: u64,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, u64),
    pub size: u64,
    pub extended: bool,
    pub layout: u64,
    pub data: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where inline data or chunk tables start.
    after: u64,
}

/// What is where: every byte of the image may belong to one thing only.
#[derive(Default)]
struct Used(BTreeMap<u64, (u64, String)>);

impl Used {
    fn take(&mut self, start: u64, length: u64, what: &str) {
        if length == 0 {
            return;
        }
        let below = self.0.range(..=start).next_back();
        let above = self.0.range(start..).next();
        for (&from, (to, other)) in below.into_iter().chain(above) {
            assert!(
                *to <= start || from >= start + length,
                "{what} at {start}+{length} overlaps {other} at {from}..{to}"
            );
        }
        self.0.insert(start, (start + length, what.to_owned()));
    }
}

/// An image in memory.
pub struct Image<'a> {
    bytes: &'a [u8],
    meta: u64,
    shared: u64,
    build_time: (i64, u64),
    used: Used,
    inodes: BTreeMap<u64, (Inode, String, Vec<u8>)>,
}

/// What reading a whole image says.
pub struct Found {
    /// The canonical text, `docs/dump.md`.
    pub dump: String,
    /// By path.
    pub inodes: BTreeMap<String, Inode>,
    /// Bytes that nothing uses; all are zero.
    pub unused: u64,
    /// Whole blocks among them.
    pub unused_blocks: u64,
}

pub fn read(bytes: &[u8]) -> Found {
    let sb = 1024;
    assert_eq!(number(bytes, sb, 4), 0xE0F5_E1E2, "magic");
    let mut zeroed = bytes[sb as usize..BLOCK as usize].to_vec();
    zeroed[4..8].fill(0);
    assert_eq!(number(bytes, sb + 4, 4), u64::from(crc(&zeroed)), "checksum");
    assert_eq!(bytes[sb as usize + 12], 12, "block size");
    assert_eq!(number(bytes, sb + 36, 4) * BLOCK, bytes.len() as u64, "blocks");
    let mut image = Image {
        bytes,
        meta: number(bytes, sb + 40, 4) * BLOCK,
        shared: number(bytes, sb + 44, 4) * BLOCK,
        build_time: (number(bytes, sb + 24, 8) as i64, number(bytes, sb + 32, 4)),
        used: Used::default(),
        inodes: BTreeMap::new(),
    };
    image.used.take(0, BLOCK, "superblock");
    let mut found = Found { dump: String::new(), inodes: BTreeMap::new(), unused: 0, unused_blocks: 0 };
    let root = number(bytes, sb + 14, 2);
    image.walk(&mut found, root);
    assert_eq!(number(bytes, sb + 16, 8), image.inodes.len() as u64, "number of inodes");
    let names = found.inodes.values().fold(BTreeMap::<u64, u64>::new(), |mut names, inode| {
        *names.entry(inode.nid).or_default() += 1;
        names
    });
    for inode in found.inodes.values().filter(|inode| inode.mode & 0o170000 != 0o040000) {
        assert_eq!(inode.nlink, names[&inode.nid], "links of {inode:?}");
    }
    let mut at = 0;
    let ends = [(bytes.len() as u64, (0, String::new()))];
    for (&from, (to, _)) in image.used.0.iter().chain(ends.iter().map(|(from, rest)| (from, rest))) {
        let gap = &bytes[at as usize..from as usize];
        assert!(gap.iter().all(|&byte| byte == 0), "something is left between {at} and {from}");
        found.unused += from - at;
        found.unused_blocks += (from / BLOCK).saturating_sub(at.div_ceil(BLOCK));
        at = *to;
    }
    found
}

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
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

impl Image<'_> {
    fn inode(&mut self, nid: u64) -> Inode {
        let at = self.meta + nid * 32;
        let format = number(self.bytes, at, 2);
        let extended = format & 1 == 1;
        assert_eq!(format >> 4, 0, "format of {nid}");
        let field = |offset, length| number(self.bytes, at + offset, length);
        let body = match field(2, 2) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let length = if extended { 64 } else { 32 };
        self.used.take(at, length + body, &format!("inode {nid}"));
        let mut inode = Inode {
            nid,
            mode: field(4, 2) as u16,
            nlink: if extended { field(44, 4) } else { field(6, 2) },
            uid: if extended { field(24, 4) } else { field(24, 2) },
            gid: if extended { field(28, 4) } else { field(26, 2) },
            mtime: if extended { (field(32, 8) as i64, field(40, 4)) } else { self.build_time },
            size: if extended { field(8, 8) } else { field(8, 4) },
            extended,
            layout: format >> 1,
            data: field(16, 4),
            xattrs: BTreeMap::new(),
            after: at + length + body,
        };
        if body > 0 {
            let count = number(self.bytes, at + length + 4, 1);
            for index in 0..count {
                let id = number(self.bytes, at + length + 12 + 4 * index, 4);
                let (name, value, end) = self.xattr(self.shared + 4 * id);
                // Shared entries belong to many.
                self.used.0.entry(self.shared + 4 * id).or_insert((end, "shared".to_owned()));
                assert!(inode.xattrs.insert(name, value).is_none(), "an attribute twice");
            }
            let mut at = at + length + 12 + 4 * count;
            while at < inode.after {
                let (name, value, end) = self.xattr(at);
                assert!(inode.xattrs.insert(name, value).is_none(), "an attribute twice");
                at = end;
            }
            assert_eq!(at, inode.after, "end of the attributes");
        }
        inode
    }

    fn xattr(&self, at: u64) -> (Vec<u8>, Vec<u8>, u64) {
        let (name, index, value) =
            (number(self.bytes, at, 1), number(self.bytes, at + 1, 1), number(self.bytes, at + 2, 2));
        let prefix = match index {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            _ => panic!("prefix {index}"),
        };
        let from = at as usize + 4;
        let (middle, end) = (from + name as usize, from + (name + value) as usize);
        let full = [prefix.as_bytes(), &self.bytes[from..middle]].concat();
        (full, self.bytes[middle..end].to_vec(), (end as u64).next_multiple_of(4))
    }

    /// The inode's data; holes and all.
    fn data(&mut self, inode: &Inode) -> Vec<u8> {
        let what = format!("data of {}", inode.nid);
        let whole = |blocks: u64| (inode.data * BLOCK, blocks * BLOCK);
        let mut out = Vec::with_capacity(inode.size as usize);
        match inode.layout {
            0 => {
                let (start, length) = whole(inode.size.div_ceil(BLOCK));
                self.used.take(start, length, &what);
                out.extend_from_slice(&self.bytes[start as usize..][..inode.size as usize]);
            }
            2 => {
                let (start, length) = whole(inode.size / BLOCK);
                self.used.take(start, length, &what);
                out.extend_from_slice(&self.bytes[start as usize..][..length as usize]);
                let rest = inode.size % BLOCK;
                assert!(inode.after % BLOCK + rest <= BLOCK, "inline data of {} cross a block", inode.nid);
                self.used.take(inode.after, rest, &what);
                out.extend_from_slice(&self.bytes[inode.after as usize..][..rest as usize]);
            }
            4 => {
                let chunk = BLOCK << (inode.data & 31);
                assert_eq!(inode.data >> 5, 0, "chunk format of {}", inode.nid);
                let count = inode.size.div_ceil(chunk);
                self.used.take(inode.after, 4 * count, &format!("chunks of {}", inode.nid));
                for index in 0..count {
                    let length = chunk.min(inode.size - index * chunk);
                    match number(self.bytes, inode.after + 4 * index, 4) {
                        0xFFFF_FFFF => out.resize(out.len() + length as usize, 0),
                        block => {
                            self.used.take(block * BLOCK, length.next_multiple_of(BLOCK), &what);
                            out.extend_from_slice(&self.bytes[(block * BLOCK) as usize..][..length as usize]);
                        }
                    }
                }
            }
            1 => self.compressed(inode, &mut out),
            other => panic!("layout {other} of {}", inode.nid),
        }
        out
    }

    /// Data of compressed clusters, found as the kernel finds them: from the entry of every logical block back to the
    /// first of its cluster, whose data end with the cluster's blocks, or stand behind the inode.
    fn compressed(&mut self, inode: &Inode, out: &mut Vec<u8>) {
        let header = inode.after.next_multiple_of(8);
        let field = |offset, length| number(self.bytes, header + offset, length);
        let (tail, advice, algorithm) = (field(2, 2), field(4, 2), field(6, 1));
        assert_eq!((field(7, 1), advice & !8), (0, 2), "header of {}", inode.nid);
        assert_eq!(advice & 8 > 0, tail > 0, "tail of {}", inode.nid);
        let entries = header + 16;
        let count = inode.size.div_ceil(BLOCK);
        let behind = entries + 8 * count;
        self.used.take(inode.after, behind - inode.after + tail, &format!("clusters of {}", inode.nid));
        assert!(tail == 0 || behind % BLOCK + tail <= BLOCK, "the tail of {} crosses a block", inode.nid);
        let entry = |block: u64| {
            let at = entries + 8 * block;
            assert_eq!(number(self.bytes, at + 2, 2), 0, "offset in a block of {}", inode.nid);
            (number(self.bytes, at, 2), number(self.bytes, at + 4, 4))
        };
        let (mut block, mut total, mut taken) = (0, 0, Vec::new());
        while block < count {
            let (kind, address) = entry(block);
            let mut next = block + 1;
            if kind == 0 {
                taken.push((address * BLOCK, BLOCK));
                let length = BLOCK.min(inode.size - block * BLOCK);
                out.extend_from_slice(&self.bytes[(address * BLOCK) as usize..][..length as usize]);
            } else {
                assert_eq!(kind, 1, "a cluster of {} begins in its middle", inode.nid);
                while next < count && entry(next).0 == 2 {
                    next += 1;
                }
                for rest in block + 1..next {
                    let value = entry(rest).1;
                    assert_eq!(value >> 16, next - rest, "distance to the next cluster of {}", inode.nid);
                    let back = value & 0xffff;
                    assert!(back == rest - block || rest == block + 1 && back & 0x800 > 0, "way back of {}", inode.nid);
                }
                let length = (inode.size - block * BLOCK).min((next - block) * BLOCK) as usize;
                let (start, size) = if next == count && tail > 0 {
                    (behind, tail)
                } else {
                    let blocks = entry(block + 1).1 & 0x7ff;
                    assert!(blocks > 0 && blocks < next - block, "blocks of a cluster of {}", inode.nid);
                    taken.push((address * BLOCK, blocks * BLOCK));
                    (address * BLOCK, blocks * BLOCK)
                };
                let data = &self.bytes[start as usize..(start + size) as usize];
                let padding = data.iter().position(|&byte| byte > 0).expect("data");
                assert!((padding as u64) < BLOCK, "a block of zeros in {}", inode.nid);
                let found = match algorithm {
                    0 => lz4_flex::block::decompress(&data[padding..], length).expect("lz4"),
                    3 => zstd::bulk::decompress(&data[padding..], length).expect("zstd"),
                    other => panic!("algorithm {other}"),
                };
                assert_eq!(found.len(), length, "a cluster of {}", inode.nid);
                out.extend_from_slice(&found);
            }
            block = next;
        }
        for (start, length) in taken {
            total += length / BLOCK;
            self.used.take(start, length, &format!("data of {}", inode.nid));
        }
        assert_eq!(total, inode.data, "blocks of {}", inode.nid);
    }

    /// Names, inodes and types of a directory, checked to be in the order that the kernel searches in.
    fn entries(&self, data: &[u8]) -> Vec<(Vec<u8>, u64, u8)> {
        let mut entries: Vec<(Vec<u8>, u64, u8)> = Vec::new();
        for block in data.chunks(BLOCK as usize) {
            let count = number(block, 8, 2) / 12;
            for index in 0..count {
                let at = index * 12;
                let from = number(block, at + 8, 2) as usize;
                let to = if index + 1 < count {
                    number(block, at + 20, 2) as usize
                } else {
                    block[from..].iter().position(|&byte| byte == 0).map_or(block.len(), |end| from + end)
                };
                entries.push((block[from..to].to_vec(), number(block, at, 8), block[at as usize + 10]));
            }
        }
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "the names are not in order");
        entries
    }

    fn walk(&mut self, found: &mut Found, root: u64) {
        // Path, inode, parent; a stack, for trees as deep as they like.
        let mut waiting = vec![(Vec::new(), root, root)];
        while let Some((path, nid, parent)) = waiting.pop() {
            let shown = format!("/{}", escape(&path));
            let known = self.inodes.get(&nid).cloned();
            let (inode, first, data) = match known {
                Some(known) => known,
                None => {
                    let inode = self.inode(nid);
                    let special = matches!(inode.mode & 0o170000, 0o020000 | 0o060000 | 0o010000);
                    let data = if special { Vec::new() } else { self.data(&inode) };
                    (inode, String::new(), data)
                }
            };
            if inode.mode & 0o170000 == 0o040000 {
                let entries = self.entries(&data);
                let mut subdirectories = 0;
                let mut children = Vec::new();
                for (name, child, kind) in entries {
                    match &name[..] {
                        b"." => assert_eq!((child, kind), (nid, 2), ". of {shown}"),
                        b".." => assert_eq!((child, kind), (parent, 2), ".. of {shown}"),
                        _ => {
                            subdirectories += u64::from(kind == 2);
                            let mode = number(self.bytes, self.meta + child * 32 + 4, 2);
                            let expected = [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7][(mode >> 12) as usize];
                            assert_eq!(u64::from(kind), expected, "type of {}", escape(&name));
                            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                            children.push(([&path, separator, &name].concat(), child, nid));
                        }
                    }
                }
                assert_eq!(inode.nlink, 2 + subdirectories, "links of {shown}");
                waiting.extend(children.into_iter().rev());
            }
            self.line(found, &shown, &inode, &first, &data);
            found.inodes.insert(shown.clone(), inode.clone());
            if first.is_empty() {
                let kept = if inode.mode & 0o170000 == 0o040000 { Vec::new() } else { data };
                self.inodes.insert(nid, (inode, shown, kept));
            }
        }
    }

    fn line(&self, found: &mut Found, path: &str, inode: &Inode, first: &str, data: &[u8]) {
        let (kind, link, digest) = match inode.mode >> 12 {
            0o10 => ("file", "-".to_owned(), Digest::of(data).as_str()[7..].to_owned()),
            0o04 => ("directory", "-".to_owned(), "-".to_owned()),
            0o12 => ("symlink", escape(data), "-".to_owned()),
            kind @ (0o02 | 0o06) => {
                let (major, minor) = (inode.data >> 8 & 0xfff, inode.data & 0xff | inode.data >> 12 & 0xfff00);
                (if kind == 2 { "char" } else { "block" }, format!("{major}:{minor}"), "-".to_owned())
            }
            0o01 => ("fifo", "-".to_owned(), "-".to_owned()),
            other => panic!("mode {other:o}"),
        };
        let hex = |value: &Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let xattrs: Vec<String> =
            inode.xattrs.iter().map(|(name, value)| format!("{}={}", escape(name), hex(value))).collect();
        let xattrs = if xattrs.is_empty() { "-".to_owned() } else { xattrs.join(",") };
        let Inode { mode, uid, gid, mtime: (seconds, nanoseconds), .. } = inode;
        let first = if first.is_empty() { "-" } else { first };
        writeln!(
            found.dump,
            "{path} {kind} {:04o} {uid} {gid} {seconds}.{nanoseconds:09} {first} {link} {xattrs} {digest}",
            mode & 0o7777
        )
        .expect("written");
    }
}
