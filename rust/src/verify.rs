//! A finished output, read back and compared with the tree that it was made of.
//!
//! The readers share nothing with the writers. Everything of the tree's canonical text is compared, contents byte for
//! byte, so that equal means equal tree digests; what the writer said that it could not hold may be missing, as often as
//! it said, and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::contents::{Content, Contents};
use crate::decompress::decompress;
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::output::{CHUNK, Loss, clamped};
use crate::read::{FileSource, Format, Image, read};
use crate::spool::unnamed_file;
use crate::tree::{Inode, InodeId, InodeKind, Step, Tree};

/// Magic numbers of gzip and zstd.
const COMPRESSED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// What an output shall hold.
pub struct Expected<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// What reads its files.
    pub contents: &'a dyn Contents,
    /// What the writer could not hold.
    pub losses: &'a [Loss],
    /// Seconds since 1970 that no time in the output passes.
    pub clamp: Option<i64>,
}

/// Reads an output back and compares it. A compressed archive is unpacked into an unnamed file in `folder` first.
///
/// # Errors
/// `output_mismatch` with what differs; `io_error`.
pub fn verify(expected: &Expected<'_>, path: &Path, format: Format, folder: &Path, threads: usize) -> Result<()> {
    let image = reread(expected.tree, path, format, folder).map_err(|error| match error.code {
        Code::Io => error,
        _ => mismatch(format!("it cannot be read back: {}", error.message)),
    })?;
    compare(expected, &image, threads)
}

fn mismatch(message: impl Into<String>) -> Error {
    Error::new(Code::OutputMismatch, message)
}

fn reread(tree: &Tree, path: &Path, format: Format, folder: &Path) -> Result<Image> {
    let failed = |error| Error::io(format_args!("cannot read {}", path.display()), &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut head).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    // The tree itself is what bounds its output; there is room for what a tool adds.
    let limits = Limits {
        entries: tree.names() + 1000,
        metadata_bytes: u64::MAX,
        image_bytes: u64::MAX,
        layer_bytes: u64::MAX,
        ratio: u64::MAX,
        ..Limits::default()
    };
    if matches!(format, Format::Tar | Format::Cpio) && COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
        let plain = unnamed_file(folder)?;
        decompress(file, &plain, &limits)?;
        file = plain;
    }
    read(Arc::new(FileSource::new(file)?), format, &limits)
}

/// Compares an image that was read with what it shall hold.
///
/// # Errors
/// As [`verify`].
pub fn compare(expected: &Expected<'_>, image: &Image, threads: usize) -> Result<()> {
    let mut account = Account::new(expected.losses);
    let pairs = names(expected, image, &mut account)?;
    account.settle()?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffers = [vec![0; CHUNK], vec![0; CHUNK]];
        while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            same_bytes(expected.contents, image, pair, &mut buffers)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let helpers: Vec<_> =
            (1..threads.max(1)).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut result = work();
        for helper in helpers {
            let other = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(other);
        }
        result
    })
}

/// What was said to be lost, and what is missing.
struct Account {
    said: HashMap<&'static str, u64>,
    missing: HashMap<&'static str, (u64, String)>,
    /// What files of several names lack. Names may have become files of their own, each of which lacks what was told once.
    of_links: HashSet<(InodeId, &'static str)>,
}

impl Account {
    fn new(losses: &[Loss]) -> Self {
        let mut said = HashMap::new();
        for loss in losses {
            *said.entry(loss.kind).or_default() += loss.count;
        }
        Account { said, missing: HashMap::new(), of_links: HashSet::new() }
    }

    fn miss(&mut self, kind: &'static str, path: &[u8], what: &str) {
        let (count, _) = self.missing.entry(kind).or_insert_with(|| (0, format!("/{}: {what}", path.escape_ascii())));
        *count += 1;
    }

    /// Something that all names of a file share is missing.
    fn miss_of(&mut self, kind: &'static str, step: &Step, inode: &Inode, what: &str) {
        if inode.nlink < 2 || self.of_links.insert((step.inode, kind)) || step.first {
            self.miss(kind, &step.path, what);
        }
    }

    /// Nothing may be missing but what was said.
    fn settle(self) -> Result<()> {
        let mut missing: Vec<_> = self.missing.into_iter().collect();
        missing.sort_unstable();
        for (kind, (count, first)) in missing {
            let said = self.said.get(kind).copied().unwrap_or(0);
            if count > said {
                let of = if said > 0 {
                    format!("; {said} losses of that kind were told, {count} found")
                } else {
                    String::new()
                };
                return Err(mismatch(format!("{first}{of}")));
            }
        }
        Ok(())
    }
}

/// Two contents that have to be equal, and the file's name.
struct Pair<'a> {
    path: Vec<u8>,
    expected: &'a Content,
    found: &'a Content,
}

/// Compares all names and what belongs to them but contents, which are returned.
fn names<'a>(expected: &Expected<'a>, image: &'a Image, account: &mut Account) -> Result<Vec<Pair<'a>>> {
    let mut pairs = Vec::new();
    let mut links: HashMap<InodeId, InodeId> = HashMap::new();
    let mut found = image.tree.walk().peekable();
    for step in expected.tree.walk() {
        let inode = expected.tree.inode(step.inode);
        let Some(other) = found.next_if(|other| other.path == step.path) else {
            let kind = match &inode.kind {
                InodeKind::CharDevice { .. } | InodeKind::BlockDevice { .. } => "device",
                InodeKind::Fifo => "fifo",
                _ => return Err(mismatch(format!("/{} is missing", step.path.escape_ascii()))),
            };
            account.miss(kind, &step.path, "it is missing");
            continue;
        };
        let seen = image.tree.inode(other.inode);
        link(&step, &other, inode, seen, &mut links, account)?;
        if step.first || other.first {
            metadata(expected, &step, inode, seen, account)?;
            if let (InodeKind::File(expected), InodeKind::File(found)) = (&inode.kind, &seen.kind) {
                pairs.push(Pair { path: step.path, expected, found });
            }
        }
    }
    match found.next() {
        None => Ok(pairs),
        Some(step) => Err(mismatch(format!("/{} is in it, and not in the tree", step.path.escape_ascii()))),
    }
}

/// Names of one file have to be names of one file.
fn link(
    step: &Step,
    other: &Step,
    inode: &Inode,
    seen: &Inode,
    links: &mut HashMap<InodeId, InodeId>,
    account: &mut Account,
) -> Result<()> {
    if inode.nlink < 2 && seen.nlink < 2 || inode.children().is_some() {
        return Ok(());
    }
    match links.get(&step.inode) {
        Some(known) if *known == other.inode => Ok(()),
        Some(_) if other.first => {
            account.miss("hardlink", &step.path, "it is a file of its own, not another name of one");
            Ok(())
        }
        None if other.first => {
            links.insert(step.inode, other.inode);
            Ok(())
        }
        _ => Err(mismatch(format!("/{}: it is another name of a wrong file", step.path.escape_ascii()))),
    }
}

fn metadata(expected: &Expected<'_>, step: &Step, inode: &Inode, seen: &Inode, account: &mut Account) -> Result<()> {
    let path = &step.path;
    let differs = |what: &str| Err(mismatch(format!("/{}: its {what} differs", path.escape_ascii())));
    match (&inode.kind, &seen.kind) {
        (InodeKind::File(one), InodeKind::File(other)) if one.size != other.size => return differs("size"),
        (InodeKind::Symlink(one), InodeKind::Symlink(other)) if one != other => return differs("target"),
        (
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor },
            InodeKind::CharDevice { major: other_major, minor: other_minor }
            | InodeKind::BlockDevice { major: other_major, minor: other_minor },
        ) if (major, minor) != (other_major, other_minor) => return differs("device number"),
        _ => {}
    }
    if std::mem::discriminant(&inode.kind) != std::mem::discriminant(&seen.kind) {
        return differs("type");
    }
    let (one, other) = (&inode.metadata, &seen.metadata);
    if one.mode != other.mode {
        account.miss_of("mode", step, inode, &format!("its mode is {:04o}, not {:04o}", other.mode, one.mode));
    }
    if (one.uid, one.gid) != (other.uid, other.gid) {
        let seen = format!("its owner is {}:{}, not {}:{}", other.uid, other.gid, one.uid, one.gid);
        account.miss_of("owner", step, inode, &seen);
    }
    let time = clamped(one.mtime, expected.clamp);
    if time != other.mtime {
        let show = |time: Mtime| format!("{}.{:09}", time.seconds, time.nanoseconds);
        account.miss_of("mtime", step, inode, &format!("its time is {}, not {}", show(other.mtime), show(time)));
    }
    if one.xattrs == other.xattrs {
        return Ok(());
    }
    let (all, kept) = (one.xattrs.iter().flat_map(|set| set.iter()), other.xattrs.as_deref());
    for (name, value) in all {
        match kept.and_then(|kept| kept.get(name)) {
            Some(kept) if kept == value => {}
            Some(_) => return differs(&format!("attribute {}", name.escape_ascii())),
            None => account.miss_of("xattr", step, inode, &format!("its attribute {} is missing", name.escape_ascii())),
        }
    }
    let more = kept.into_iter().flat_map(|kept| kept.keys());
    match more.into_iter().find(|name| one.xattrs.as_deref().is_none_or(|all| !all.contains_key(*name))) {
        None => Ok(()),
        Some(name) => differs(&format!("attribute {}", name.escape_ascii())),
    }
}

/// The first byte of data at or after an offset; the size when none follows.
fn next_data(content: &Content, offset: u64) -> u64 {
    let Some(extents) = &content.extents else { return offset.min(content.size) };
    let index = extents.partition_point(|run| run.offset + run.length <= offset);
    extents.get(index).map_or(content.size, |run| run.offset.max(offset))
}

/// Compares what either of two contents has data for; holes of both are equal.
fn same_bytes(contents: &dyn Contents, image: &Image, pair: &Pair<'_>, buffers: &mut [Vec<u8>; 2]) -> Result<()> {
    let named = |error: Error| match error.code {
        Code::Io => error,
        _ => mismatch(format!("/{}: it cannot be read back: {}", pair.path.escape_ascii(), error.message)),
    };
    let [one, other] = buffers;
    let mut offset = 0;
    loop {
        offset = next_data(pair.expected, offset).min(next_data(pair.found, offset));
        if offset >= pair.expected.size {
            return Ok(());
        }
        let length = contents.read_at(pair.expected, offset, one)?;
        let seen = image.contents.read_at(pair.found, offset, other).map_err(named)?;
        if length == 0 || one[..length] != other[..seen] {
            let at = one[..length].iter().zip(&other[..seen]).take_while(|(one, other)| one == other).count();
            let message = format!("/{}: its content differs at byte {}", pair.path.escape_ascii(), offset + at as u64);
            return Err(mismatch(message));
        }
        offset += length as u64;
    }
}
