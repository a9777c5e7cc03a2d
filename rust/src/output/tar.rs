//! A tree as a tar stream: pax where ustar is too small, every link after its target, nothing of the host.

use std::collections::HashMap;
use std::io::Write;

use super::compress::StreamCompression;
use super::request::{WriteRequest, Written, write_stream};
use super::{CHUNK, clamped, copy_range, refuse_unholdable, size_of};
use crate::contents::{Content, Contents};
use crate::entry::Metadata;
use crate::error::Result;
use crate::tar::{Member, MemberKind, Writer};
use crate::tree::{InodeId, InodeKind, Tree};

/// What is chosen about a tar.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Of the whole stream.
    pub compression: StreamCompression,
    /// What becomes of holes.
    pub holes: Holes,
}

/// What becomes of holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holes {
    /// They are kept (GNU's sparse format 1.0), where that makes the archive smaller.
    #[default]
    Kept,
    /// They are zeros like any others, for readers that do not know that format.
    AsZeros,
}

/// Writes the tree. The archive ends only when all of it was written: a reader of a stream that broke off sees that it
/// did.
///
/// The first member is `./`, the root's own metadata. The second name of an inode, in the order of the walk, and all
/// later ones are hard links to the first.
///
/// # Errors
/// What reading the contents or writing returns.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let WriteRequest { source, target, options: Options { compression, holes }, clamp_mtime, .. } = request;
    write_stream(target, compression, |out| {
        Ok((archive(source.tree, &source.metered(), out, holes, clamp_mtime)?, Vec::new()))
    })
}

/// Bytes of a tar that is not compressed.
///
/// # Errors
/// As [`write`].
pub fn size(tree: &Tree, clamp: Option<i64>) -> Result<u64> {
    size_of(|contents, out| archive(tree, contents, out, Holes::Kept, clamp).map(drop))
}

/// Writes the tree to `out` and gives `out` back.
fn archive<W: Write>(tree: &Tree, contents: &dyn Contents, out: W, holes: Holes, clamp: Option<i64>) -> Result<W> {
    let fit = |_: &[u8], metadata: &mut Metadata| metadata.mtime = clamped(metadata.mtime, clamp);
    write_fitted(tree, contents, Writer::new(out), holes, fit)
}

/// Shortest hole that is looked at: a block of the archive.
const BLOCK: u64 = 512;
/// Most bytes of the map of a file with holes: Go reads no longer one than 1 MiB.
const MAP_MAX: usize = 512 << 10;
/// Most bytes that an extent takes in a map: two numbers of 64 bits.
const EXTENT_MAX: usize = 40;

/// The stretches of data of a file with holes; nothing where the holes are not worth a map. The shortest holes count as
/// data when there are too many. Every stretch begins and ends at a block, or ends with the file: GNU tar looks for the
/// next one at the next block, other readers at the next byte.
fn stretches(content: &Content) -> Option<Vec<(u64, u64)>> {
    content.extents.as_ref()?;
    let mut least = BLOCK;
    loop {
        let mut data: Vec<(u64, u64)> = Vec::new();
        for run in content.runs() {
            let start = run.offset / BLOCK * BLOCK;
            let end = (run.offset + run.length).next_multiple_of(BLOCK).min(content.size);
            match data.last_mut() {
                Some((offset, length)) if start.saturating_sub(*offset + *length) < least => *length = end - *offset,
                None if start < least => data.push((0, end)),
                _ => data.push((start, end - start)),
            }
        }
        if let Some((offset, length)) = data.last_mut()
            && content.size - (*offset + *length) < least
        {
            *length = content.size - *offset;
        }
        if (data.len() + 2) * EXTENT_MAX <= MAP_MAX {
            let stored: u64 = data.iter().map(|(_, length)| length).sum();
            // The map, and the pax header that tells of it.
            let costs = (data.len() + 2) as u64 * EXTENT_MAX as u64 + 4 * BLOCK;
            return (content.size - stored > costs).then_some(data);
        }
        least *= 2;
    }
}

/// The same with metadata as `fit` leaves them; it is called once for each inode, with its first path.
pub(super) fn write_fitted<W: Write>(
    tree: &Tree,
    contents: &dyn Contents,
    writer: Writer<W>,
    holes: Holes,
    mut fit: impl FnMut(&[u8], &mut Metadata),
) -> Result<W> {
    refuse_unholdable(tree)?;
    let mut writer = writer;
    let mut first_names: HashMap<InodeId, Vec<u8>> = HashMap::default();
    let mut buffer = vec![0; CHUNK];
    for step in tree.walk() {
        let inode = tree.inode(step.inode);
        let mut metadata = inode.metadata.clone();
        let mut path = step.path;
        let linked = if step.first { None } else { first_names.get(&step.inode) };
        if linked.is_none() {
            fit(&path, &mut metadata);
        }
        let data = match (&inode.kind, linked) {
            (InodeKind::File(content), None) if holes == Holes::Kept => stretches(content),
            _ => None,
        };
        let kind = match (&inode.kind, linked) {
            (_, Some(first)) => MemberKind::HardLink(first),
            (InodeKind::File(content), None) => match &data {
                Some(data) => MemberKind::SparseFile { size: content.size, data },
                None => MemberKind::File { size: content.size },
            },
            (InodeKind::Directory(_), None) => {
                path.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
                MemberKind::Directory
            }
            (InodeKind::Symlink(target), None) => MemberKind::Symlink(target),
            (&InodeKind::CharDevice { major, minor }, None) => MemberKind::CharDevice { major, minor },
            (&InodeKind::BlockDevice { major, minor }, None) => MemberKind::BlockDevice { major, minor },
            (InodeKind::Fifo, None) => MemberKind::Fifo,
        };
        writer.append(&Member { path: &path, metadata: &metadata, kind })?;
        if let (InodeKind::File(content), None) = (&inode.kind, linked) {
            for (offset, length) in data.unwrap_or_else(|| vec![(0, content.size)]) {
                copy_range(contents, content, offset..offset + length, &mut buffer, |bytes| writer.write_data(bytes))?;
            }
        }
        if inode.nlink > 1 && step.first {
            first_names.insert(step.inode, path);
        }
    }
    writer.finish()
}
