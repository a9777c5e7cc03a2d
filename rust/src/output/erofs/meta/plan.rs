//! The plan of an image: for every inode its form, and its place among the metadata.

use super::attributes::SharedAttributes;
use super::directory::{Name, Shape, names};
use super::packer::MetadataPacker;
use crate::contents::Content;
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::output::erofs::data::file_data::{DataPlace, FileData};
use crate::output::erofs::format::clusters::table_size;
use crate::output::erofs::format::inode::Record;
use crate::output::erofs::format::numbers::{BLOCK, DataLayout, INDEX, INDEXES, NULL_ADDRESS, blocks};
use crate::output::erofs::format::xattr;
use crate::output::erofs::identity::Identity;
use crate::output::{Loss, Losses, clamped, device_number};
use crate::tree::{Children, InodeId, InodeKind, Tree};

/// An inode that has no place: it is in no name's reach.
const NOWHERE: u32 = u32::MAX;

/// Largest table of chunks of a sparse file that is accepted whatever the size of its data, in bytes.
const TABLE_MAX: u64 = 64 << 20;

/// What is behind an inode and its attributes, or where else its data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeData {
    /// Nothing, or what is in the data area.
    OutOfLine,
    /// So many bytes of the content's tail, of a link's target or of a directory's last block.
    Inline(usize),
    /// So many blocks of metadata of their own.
    Blocks(u64),
    /// A table of so many chunks of 2^`bits` blocks each.
    Chunks {
        /// Size of a chunk.
        bits: u32,
        /// Number of chunks.
        count: u64,
    },
    /// The same, where each entry names a device as well.
    Indexes {
        /// As of chunks.
        bits: u32,
        /// As of chunks.
        count: u64,
    },
    /// A table of compressed clusters, and so many bytes of the last.
    Clusters(usize),
}

/// What an inode looks like; all but addresses.
#[derive(Clone, Copy, Debug)]
pub struct InodeForm {
    /// The inode itself; its `data` field is still to be filled in for what has blocks.
    pub record: Record,
    /// Bytes of inode and attributes.
    pub head: usize,
    /// What follows.
    pub data: InodeData,
}

/// The inodes of a tree, and their places.
pub struct Plan<'t> {
    tree: &'t Tree,
    files: &'t dyn FileData,
    identity: &'t Identity,
    shared: SharedAttributes<'t>,
    /// By inode: its slot.
    slots: Vec<u32>,
    /// By inode: its first own block of metadata.
    runs: Vec<u32>,
    /// By directory: its parent.
    parents: Vec<InodeId>,
    packer: MetadataPacker,
    shared_run: u32,
    count: u64,
    chunked: bool,
    losses: Losses,
}

impl<'t> Plan<'t> {
    /// Plans the image of `tree`.
    ///
    /// # Errors
    /// `output_unsupported` for what would make an image beyond the format's bounds.
    pub fn new(tree: &'t Tree, files: &'t dyn FileData, identity: &'t Identity) -> Result<Self> {
        let bound = tree.inode_bound();
        let firsts = || tree.walk().filter(|step| step.first);
        let mut plan = Plan {
            tree,
            files,
            identity,
            shared: SharedAttributes::collect(firsts().map(|step| &tree.inode(step.inode).metadata)),
            slots: vec![NOWHERE; bound],
            runs: vec![NOWHERE; bound],
            parents: vec![tree.root(); bound],
            packer: MetadataPacker::default(),
            shared_run: 0,
            count: 0,
            chunked: false,
            losses: Losses::default(),
        };
        for step in firsts() {
            plan.add(&step.path, step.inode)?;
        }
        if plan.shared.size() > 0 {
            plan.shared_run = plan.packer.run(blocks(plan.shared.size()))?;
        }
        Ok(plan)
    }

    fn add(&mut self, path: &[u8], id: InodeId) -> Result<()> {
        let inode = self.tree.inode(id);
        let mut attributes = Vec::new();
        self.shared.body(&inode.metadata, &mut attributes, |name, why| {
            self.losses.add("xattr", path, format!("{}: {why}", name.escape_ascii()));
        });
        if let InodeKind::Directory(children) = &inode.kind {
            for child in children.values() {
                if self.tree.inode(*child).children().is_some() {
                    self.parents[child.index()] = id;
                }
            }
        }
        let form = self.form(id).map_err(|mut error| {
            error.context.path = Some(path.to_vec());
            error
        })?;
        let behind = match form.data {
            InodeData::OutOfLine | InodeData::Blocks(_) => 0,
            InodeData::Inline(length) => length,
            InodeData::Chunks { count, .. } => 4 * count as usize,
            InodeData::Indexes { count, .. } => index_padding(form.head) + INDEX * count as usize,
            InodeData::Clusters(tail) => table_size(form.head, form.record.size) + tail,
        };
        // The root comes first and so gets the first slot of all.
        self.slots[id.index()] = self.packer.piece(form.head + behind)?;
        if let InodeData::Blocks(count) = form.data {
            self.runs[id.index()] = self.packer.run(count)?;
        }
        self.chunked |= matches!(form.data, InodeData::Chunks { .. } | InodeData::Indexes { .. });
        self.count += 1;
        Ok(())
    }

    /// What an inode looks like.
    ///
    /// # Errors
    /// `output_unsupported` for a device number that Linux has not, and for a sparse file whose table of chunks would be out of all proportion.
    pub fn form(&self, id: InodeId) -> Result<InodeForm> {
        let inode = self.tree.inode(id);
        let metadata = &inode.metadata;
        let attributes = if metadata.xattrs.is_some() { self.shared.body_size(metadata) } else { 0 };
        let mut record = Record {
            layout: DataLayout::FlatPlain,
            mode: inode.kind.type_bits() | metadata.mode & 0o7777,
            xattr_count: xattr::body_count(attributes),
            nlink: inode.nlink,
            size: 0,
            data: 0,
            number: u32::try_from(id.index() + 1).unwrap_or(u32::MAX),
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: clamped(metadata.mtime, self.identity.clamp_mtime),
        };
        let build_time = self.identity.build_time;
        let fits = |record: &Record, length: usize| record.length(build_time) + attributes + length <= BLOCK;
        let data = match &inode.kind {
            InodeKind::File(content) => {
                record.size = content.size;
                match self.files.place(id, content) {
                    DataPlace::Flat { start, tail } => {
                        record.data = start;
                        if tail > 0 { InodeData::Inline(tail) } else { InodeData::OutOfLine }
                    }
                    DataPlace::Sparse { content, .. } => {
                        let (bits, count) = chunks(&content, 4)?;
                        InodeData::Chunks { bits, count }
                    }
                    DataPlace::Device { content, .. } => {
                        let (bits, count) = chunks(&content, INDEX as u64)?;
                        InodeData::Indexes { bits, count }
                    }
                    DataPlace::Compressed(clusters) => {
                        record.data = clusters.blocks();
                        InodeData::Clusters(clusters.tail)
                    }
                }
            }
            InodeKind::Directory(children) => {
                let shape = Shape::of(self.names(id, children));
                let is_directory = |id: &&InodeId| self.tree.inode(**id).children().is_some();
                record.nlink = 2 + children.values().filter(is_directory).count() as u32;
                record.size = shape.full * BLOCK as u64 + shape.last as u64;
                if fits(&record, shape.last) && shape.full == 0 {
                    InodeData::Inline(shape.last)
                } else {
                    InodeData::Blocks(shape.full + 1)
                }
            }
            InodeKind::Symlink(target) => {
                record.size = target.len() as u64;
                if fits(&record, target.len()) { InodeData::Inline(target.len()) } else { InodeData::Blocks(1) }
            }
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                record.data = device_number(*major, *minor)?;
                InodeData::OutOfLine
            }
            InodeKind::Fifo => InodeData::OutOfLine,
        };
        let behind = match data {
            InodeData::Inline(length) => length,
            InodeData::Clusters(tail) if tail > 0 => {
                table_size(record.length(build_time) + attributes, record.size) + tail
            }
            _ => 0,
        };
        if behind > 0 && !fits(&record, behind) {
            return Err(Error::new(Code::OutputUnsupported, "its metadata grew after its content was stored"));
        }
        match data {
            InodeData::Inline(_) => record.layout = DataLayout::FlatInline,
            InodeData::Clusters(_) => record.layout = DataLayout::CompressedFull,
            InodeData::Chunks { bits, .. } => {
                record.layout = DataLayout::ChunkBased;
                record.data = bits;
            }
            InodeData::Indexes { bits, .. } => {
                record.layout = DataLayout::ChunkBased;
                record.data = bits | INDEXES;
            }
            InodeData::OutOfLine | InodeData::Blocks(_) => {}
        }
        Ok(InodeForm { record, head: record.length(build_time) + attributes, data })
    }

    /// All names of a directory.
    pub fn names(&self, directory: InodeId, children: &'t Children) -> impl Iterator<Item = Name<'t>> + use<'t> {
        names(children, directory, self.parents[directory.index()])
    }

    /// Where the data of files are.
    pub fn files(&self) -> &'t dyn FileData {
        self.files
    }

    /// The tree.
    pub fn tree(&self) -> &'t Tree {
        self.tree
    }

    /// The time of the inodes of the short form.
    pub fn build_time(&self) -> Mtime {
        self.identity.build_time
    }

    /// The shared attributes, and the first block that was set aside for them.
    pub fn shared(&self) -> (&SharedAttributes<'t>, u32) {
        (&self.shared, self.shared_run)
    }

    /// The slot of an inode, if it is in the image.
    pub fn slot(&self, id: InodeId) -> Option<u32> {
        Some(self.slots[id.index()]).filter(|&slot| slot != NOWHERE)
    }

    /// The first block of metadata that an inode has for itself.
    pub fn run(&self, id: InodeId) -> Option<u32> {
        Some(self.runs[id.index()]).filter(|&run| run != NOWHERE)
    }

    /// The blocks of the metadata.
    pub fn packer(&self) -> &MetadataPacker {
        &self.packer
    }

    /// Number of inodes.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether some file is a table of chunks.
    pub fn chunked(&self) -> bool {
        self.chunked
    }

    /// What the image cannot hold.
    pub fn into_losses(self) -> Vec<Loss> {
        self.losses.into_vec()
    }
}

/// Bytes between an inode with its attributes, which take `head`, and the indexes behind them.
pub fn index_padding(head: usize) -> usize {
    head.next_multiple_of(INDEX) - head
}

/// The table of a file: the largest chunks of which each is all data or all hole, as the logarithm of their blocks, and
/// how many there are, `entry` bytes each.
fn chunks(content: &Content, entry: u64) -> Result<(u32, u64)> {
    let size = blocks(content.size);
    let mut bits = 31.min(size.max(1).next_power_of_two().trailing_zeros());
    let mut stored = 0;
    for run in content.runs() {
        let (start, end) = (run.offset, run.offset + run.length);
        bits = bits.min((start / BLOCK as u64).trailing_zeros());
        if end < content.size {
            bits = bits.min((end / BLOCK as u64).trailing_zeros());
        }
        stored += run.length;
    }
    let count = size.div_ceil(1 << bits);
    if count * entry > TABLE_MAX.max(stored) {
        let message = format!(
            "a sparse file of {} bytes with {stored} bytes of data needs a table of {} bytes in an erofs image",
            content.size,
            count * entry
        );
        return Err(Error::new(Code::OutputUnsupported, message));
    }
    Ok((bits, count))
}

/// The addresses of a sparse file's chunks, when its data start at block `start`.
pub fn chunk_addresses(content: &Content, bits: u32, count: u64, start: u32) -> impl Iterator<Item = u32> + '_ {
    let mut runs = content.runs().peekable();
    let mut stored = u64::from(start);
    (0..count).map(move |chunk| {
        let offset = (chunk << bits) * BLOCK as u64;
        while let Some(run) = runs.peek()
            && run.offset + run.length <= offset
        {
            stored += blocks(run.length);
            runs.next();
        }
        match runs.peek() {
            Some(run) if run.offset <= offset => (stored + (offset - run.offset) / BLOCK as u64) as u32,
            _ => NULL_ADDRESS,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Extent;

    fn sparse(size: u64, extents: &[(u64, u64)]) -> Content {
        let extents =
            extents.iter().map(|&(offset, length)| Extent { offset: offset * 4096, length: length * 4096, stored: 0 });
        Content { layer: 0, position: 0, size, extents: Some(extents.collect()) }
    }

    #[test]
    fn chunks_are_as_large_as_the_holes_allow() -> Result<()> {
        const NO: u32 = NULL_ADDRESS;
        let table: [(&str, Content, u32, &[u32]); 5] = [
            ("all hole", sparse(5 << 30, &[]), 21, &[NO]),
            ("odd", sparse(4 * 4096, &[(1, 1)]), 0, &[NO, 100, NO, NO]),
            ("even", sparse(8 * 4096, &[(0, 2), (6, 2)]), 1, &[100, NO, NO, 102]),
            ("to the end", sparse(7 * 4096 - 5, &[(4, 3)]), 2, &[NO, 100]),
            ("two in one run", sparse(16 * 4096, &[(4, 8)]), 2, &[NO, 100, 104, NO]),
        ];
        for (name, content, bits, addresses) in table {
            let (found, count) = chunks(&content, 4)?;
            assert_eq!(found, bits, "{name}");
            assert_eq!(chunk_addresses(&content, bits, count, 100).collect::<Vec<_>>(), addresses, "{name}");
        }
        let huge = sparse(1 << 62, &[(1, 1)]);
        assert_eq!(chunks(&huge, 4).expect_err("refused").code, Code::OutputUnsupported);
        Ok(())
    }
}
