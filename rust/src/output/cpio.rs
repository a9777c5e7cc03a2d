//! A tree as a cpio archive in the "newc" form, which Linux unpacks into an initial root file system.
//!
//! Kernel documentation, "initramfs buffer format" (driver-api/early-userspace/buffer-format). All names of a file with
//! several share an inode number and have no data but the last that Linux unpacks: GNU cpio waits for it, Linux takes it
//! either way.

use std::collections::HashMap;
use std::io::Write;

use super::compress::StreamCompression;
use super::request::{WriteRequest, Written, write_stream};
use super::{CHUNK, Loss, Losses, clamped, copy_content, refuse_unholdable, size_of};
use crate::contents::Contents;
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::tree::{Inode, InodeId, InodeKind, Step, Tree};

const MAGIC: &[u8] = b"070701";
const END: &[u8] = b"TRAILER!!!";
/// Archives end on a whole block, as GNU cpio's do.
const BLOCK: u64 = 512;
/// Longest path that Linux unpacks, with its final zero byte; it passes over longer ones in silence.
const PATH_MAX: usize = 4096;

/// What is chosen about a cpio archive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Of the whole stream.
    pub compression: StreamCompression,
}

/// Writes the tree. The first member is `.`, the root's own metadata.
///
/// # Errors
/// `output_unsupported` for a file of 4 GiB or more, before anything is written; what reading and writing return.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let WriteRequest { source, target, options, clamp_mtime, .. } = request;
    write_stream(target, options.compression, |out| archive(source.tree, &source.metered(), out, clamp_mtime))
}

/// Bytes of an archive that is not compressed.
///
/// # Errors
/// As [`write`].
pub fn size(tree: &Tree, clamp: Option<i64>) -> Result<u64> {
    size_of(|contents, out| archive(tree, contents, out, clamp).map(drop))
}

/// Writes the tree to `out`; gives `out` back, and what the format could not hold.
fn archive<W: Write>(tree: &Tree, contents: &dyn Contents, out: W, clamp: Option<i64>) -> Result<(W, Vec<Loss>)> {
    refuse_unholdable(tree)?;
    check(tree)?;
    let mut archive = ArchiveWriter { out, written: 0 };
    let mut losses = Members::default();
    let mut linked = linked(tree);
    let mut buffer = vec![0; CHUNK];
    let mut next = 1u32;
    for (index, step) in tree.walk().enumerate() {
        let inode = tree.inode(step.inode);
        let (mut number, mut has_data) = (next, true);
        if let Some(known) = linked.get_mut(&step.inode) {
            number = *known.number.get_or_insert(next);
            has_data = known.data_at == index;
        }
        next += u32::from(step.first);
        losses.of(inode, &step);
        let mtime = losses.seconds(clamped(inode.metadata.mtime, clamp), &step);
        let name = name(&step.path);
        let mut header = Header::new(inode, number, mtime);
        match &inode.kind {
            InodeKind::File(content) if has_data => {
                header.size = content.size as u32;
                archive.member(&header, &name)?;
                copy_content(contents, content, &mut buffer, |bytes| archive.put(bytes))?;
                archive.pad(4)?;
            }
            InodeKind::Symlink(target) => {
                header.size = target.len() as u32;
                archive.member(&header, &name)?;
                archive.put(target)?;
                archive.pad(4)?;
            }
            _ => archive.member(&header, &name)?,
        }
    }
    archive.member(&Header { links: 1, ..Header::default() }, END)?;
    archive.pad(BLOCK)?;
    Ok((archive.out, losses.0.into_vec()))
}

/// A file with several names.
struct Linked {
    number: Option<u32>,
    /// Which step of the walk has the data: the last of those that Linux unpacks, or of all when it unpacks none.
    data_at: usize,
    unpacked: bool,
}

fn linked(tree: &Tree) -> HashMap<InodeId, Linked> {
    let mut linked: HashMap<InodeId, Linked> = HashMap::default();
    for (index, step) in tree.walk().enumerate().filter(|(_, step)| tree.inode(step.inode).nlink > 1) {
        let unpacked = is_unpacked(&step.path);
        let known = linked.entry(step.inode).or_insert(Linked { number: None, data_at: index, unpacked });
        if unpacked || !known.unpacked {
            (known.data_at, known.unpacked) = (index, unpacked);
        }
    }
    linked
}

fn is_unpacked(path: &[u8]) -> bool {
    path.len() < PATH_MAX
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("cannot write the cpio archive", error)
}

/// Refuses what cannot be held, while nothing is written yet.
fn check(tree: &Tree) -> Result<()> {
    for step in tree.walk().filter(|step| step.first) {
        let why = match &tree.inode(step.inode).kind {
            InodeKind::File(content) if u32::try_from(content.size).is_err() => {
                format!("a file of {} bytes: 4,294,967,295 is the most", content.size)
            }
            InodeKind::Symlink(target) if u32::try_from(target.len()).is_err() => {
                format!("a link target of {} bytes", target.len())
            }
            _ => continue,
        };
        let mut error = Error::new(Code::OutputUnsupported, format!("cpio cannot hold {why}"));
        error.context.path = Some(step.path);
        return Err(error);
    }
    Ok(())
}

/// The name of a member: `.` for the root, and never the name that ends an archive.
fn name(path: &[u8]) -> Vec<u8> {
    match path {
        b"" => b".".to_vec(),
        END => [b"./", END].concat(),
        path => path.to_vec(),
    }
}

/// The numbers of a member's header. The device of the file system is 0:0 for all, so inode numbers tell files apart.
#[derive(Default)]
struct Header {
    number: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

impl Header {
    fn new(inode: &Inode, number: u32, mtime: u32) -> Self {
        let metadata = &inode.metadata;
        Header {
            number,
            mode: u32::from(inode.kind.type_bits() | metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            links: inode.nlink,
            mtime,
            size: 0,
            device: inode.kind.device(),
        }
    }
}

/// Collects what is lost of each member.
#[derive(Default)]
struct Members(Losses);

impl Members {
    fn add(&mut self, kind: &'static str, step: &Step, detail: impl Into<String>) {
        self.0.add(kind, &step.path, detail);
    }

    fn of(&mut self, inode: &Inode, step: &Step) {
        if !is_unpacked(&step.path) {
            self.add("path", step, "Linux unpacks no path over 4095 bytes");
        }
        match &inode.kind {
            InodeKind::Symlink(_) if !step.first => {
                self.add("hardlink", step, "Linux makes each name of a symbolic link a link of its own");
            }
            _ => {}
        }
        for name in inode.metadata.xattrs.iter().filter(|_| step.first).flat_map(|set| set.keys()) {
            self.add("xattr", step, format!("{}: cpio has no attributes", name.escape_ascii()));
        }
    }

    /// The seconds that a header can hold: 32 bits from 1970 on.
    fn seconds(&mut self, mtime: Mtime, step: &Step) -> u32 {
        let seconds = mtime.seconds.clamp(0, i64::from(u32::MAX));
        if step.first && (seconds != mtime.seconds || mtime.nanoseconds != 0) {
            self.add("mtime", step, "cpio has whole seconds from 1970 to 2106");
        }
        seconds as u32
    }
}

struct ArchiveWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> ArchiveWriter<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| failed(&error))
    }

    /// Zeros up to a multiple of `alignment`, which is at most [`BLOCK`].
    fn pad(&mut self, alignment: u64) -> Result<()> {
        let missing = self.written.next_multiple_of(alignment) - self.written;
        self.put(&[0; BLOCK as usize][..missing as usize])
    }

    fn member(&mut self, header: &Header, name: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + 13 * 8 + name.len() + 4);
        bytes.extend_from_slice(MAGIC);
        let name_size = name.len() as u32 + 1;
        let (major, minor) = header.device;
        let numbers = [
            header.number,
            header.mode,
            header.uid,
            header.gid,
            header.links,
            header.mtime,
            header.size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];
        for number in numbers {
            // Writing to a Vec cannot fail.
            let _ = write!(bytes, "{number:08X}");
        }
        bytes.extend_from_slice(name);
        bytes.push(0);
        self.put(&bytes)?;
        self.pad(4)
    }
}
