//! The second walk: every inode with all that belongs to it, then the bitmaps, descriptors and superblocks.

use std::fs::File;

use std::collections::HashMap;

use super::bitmap::{Use, write_bitmaps};
use super::checksum::file_system_seed;
use super::directory::Shape;
use super::extent::{self, EXTENT_BLOCKS, Mapping, data_blocks};
use super::inode::{EA_INODE, EXTENTS, INDEX, Record, Times, Type, device, seal};
use super::layout::{AdjacentBlocks, Allocator, BLOCK, Geometry, INODE, has_superblock};
use super::options::Identity;
use super::stream::Stream;
use super::superblock::{FIRST_INODE, JOURNAL_INODE, Summary, journal_superblock, superblock};
use super::survey::{LINKS_MAX, ROOT_INODE, SetId, Survey, TARGET_INSIDE, holdable, shared_set, type_of};
use super::xattr::{SHARED_MAX, XattrPlan, value_hash};
use crate::contents::{Content, Contents};
use crate::entry::{Mtime, Xattrs};
use crate::error::{Code, Error, Result};
use crate::tree::{Children, InodeKind, Step, Tree};

/// Writes one image.
pub(super) struct ImageWriter<'a> {
    tree: &'a Tree,
    contents: &'a dyn Contents,
    identity: &'a Identity,
    survey: &'a Survey,
    geometry: &'a Geometry,
    seed: u32,
    tables: Stream<'a>,
    metadata: Stream<'a>,
    data: Stream<'a>,
    /// Blocks of directories, attributes and long link targets.
    near: Allocator<'a>,
    /// Blocks of everything else.
    far: Allocator<'a>,
    /// Directories of each group.
    directories: Vec<u16>,
    shared: HashMap<SetId, SharedBlock>,
    /// Inode numbers of the directories that lead to where the walk is.
    ancestors: Vec<u32>,
    journal: Option<([u8; 60], u64)>,
}

/// An attribute block that several inodes share.
struct SharedBlock {
    block: u64,
    /// Inodes that may still share it.
    open: u32,
    /// Inodes with this set that are still to come.
    waiting: u32,
}

fn full() -> Error {
    Error::new(Code::OutputUnsupported, "the tree does not fit into the ext4 image")
}

fn epoch(seconds: i64) -> Mtime {
    Mtime { seconds, nanoseconds: 0 }
}

impl<'a> ImageWriter<'a> {
    /// Gets ready to write into an empty file.
    ///
    /// # Errors
    /// `io_error` when no thread can be started.
    pub fn new(
        tree: &'a Tree,
        contents: &'a dyn Contents,
        file: &'a File,
        identity: &'a Identity,
        survey: &'a Survey,
        geometry: &'a Geometry,
    ) -> Result<Self> {
        let near = Allocator::new(geometry);
        Ok(ImageWriter {
            tree,
            contents,
            identity,
            survey,
            geometry,
            seed: file_system_seed(&identity.uuid),
            tables: Stream::new(file),
            metadata: Stream::new(file),
            data: Stream::behind(file)?,
            far: near.clone(),
            near,
            directories: vec![0; geometry.groups.len()],
            shared: HashMap::default(),
            ancestors: Vec::new(),
            journal: None,
        })
    }

    /// Writes everything; `journal` is the number of its blocks, 0 for none.
    ///
    /// # Errors
    /// `io_error`; `output_unsupported` when the geometry is too small.
    pub fn write(mut self, journal: u64) -> Result<()> {
        self.far.skip(journal + self.survey.metadata_blocks).ok_or_else(full)?;
        let end_of_metadata = self.far.position();
        for number in (1..FIRST_INODE).filter(|&number| number != ROOT_INODE) {
            self.reserved_inode(number)?;
        }
        if journal > 0 {
            self.journal(journal)?;
        }
        for step in self.tree.walk().filter(|step| step.first) {
            self.inode(&step)?;
        }
        debug_assert!(self.near.position() <= end_of_metadata, "the survey counted too few blocks");
        self.summary()?;
        self.tables.finish()?;
        self.data.finish()?;
        self.metadata.finish()
    }

    /// Writes what tells used blocks and inodes from free ones, and the superblocks.
    fn summary(&mut self) -> Result<()> {
        let usage = Use { blocks: self.far.position(), inodes: self.survey.last_inode, directories: &self.directories };
        let (descriptors, free_blocks) = write_bitmaps(self.geometry, &usage, self.seed, &mut self.metadata)?;
        let summary = Summary {
            uuid: self.identity.uuid,
            hash_seed: self.identity.hash_seed(),
            created: self.created(),
            free_blocks,
            free_inodes: self.geometry.inodes() - self.survey.last_inode,
            outside_values: self.survey.outside_values,
            journal: self.journal,
        };
        for group in (0..self.geometry.groups.len()).filter(|&group| has_superblock(group as u64)) {
            let start = self.geometry.group(group).start * BLOCK as u64;
            // Only the first stands behind room for a boot sector.
            let superblock_start = if group == 0 { 1024 } else { start };
            self.metadata.put(superblock_start, &superblock(self.geometry, &summary, group))?;
            self.metadata.put(start + BLOCK as u64, &descriptors)?;
        }
        Ok(())
    }

    fn created(&self) -> u32 {
        self.identity.created.clamp(0, i64::from(u32::MAX)) as u32
    }

    fn reserved_inode(&mut self, number: u32) -> Result<()> {
        let mut bytes = [0; INODE];
        if number == 1 {
            for field in [0x08, 0x0C, 0x10] {
                bytes[field..field + 4].copy_from_slice(&self.created().to_le_bytes());
            }
        }
        seal(&mut bytes, number, self.seed);
        self.tables.put(self.geometry.inode_offset(number), &bytes)
    }

    fn record(&mut self, number: u32, record: &Record) -> Result<()> {
        self.tables.put(self.geometry.inode_offset(number), &record.encode(number, self.seed))
    }

    fn journal(&mut self, blocks: u64) -> Result<()> {
        let mut map = BlockMapping::default();
        map.allocate(&mut self.near, 0, blocks, |_, _| Ok(()))?;
        let first = map.mappings.first().map_or(0, |it| it.physical);
        let bytes = journal_superblock(blocks as u32, &self.identity.uuid);
        self.metadata.put(first * BLOCK as u64, &bytes)?;
        let mut record = Record::new(Type::File, Times::all(epoch(i64::from(self.created()))));
        record.permissions = 0o600;
        record.size = blocks * BLOCK as u64;
        self.map(JOURNAL_INODE, &map, &mut record)?;
        self.journal = Some((record.map, record.size));
        self.record(JOURNAL_INODE, &record)
    }

    /// Puts the extents of an inode into its record, and the tree's blocks into the image.
    fn map(&mut self, number: u32, map: &BlockMapping, record: &mut Record) -> Result<()> {
        let (data, far) = (&mut self.data, &mut self.far);
        let mut tree_blocks = 0;
        let allocate = || {
            tree_blocks += 1;
            far.take(1).map(|run| run.start).ok_or_else(full)
        };
        let emit = |block: u64, bytes: &[u8]| data.put(block * BLOCK as u64, bytes);
        record.map = extent::build(&map.mappings, number, self.seed, allocate, emit)?;
        record.blocks += map.blocks + tree_blocks;
        record.flags |= EXTENTS;
        Ok(())
    }

    fn inode(&mut self, step: &Step) -> Result<()> {
        let inode = self.tree.inode(step.inode);
        let number = self.survey.numbers[step.inode.index()];
        let metadata = &inode.metadata;
        let mtime = holdable(crate::output::clamped(metadata.mtime, self.identity.clamp_mtime));
        let mut record = Record::new(type_of(inode), Times::all(mtime));
        (record.permissions, record.uid, record.gid) = (metadata.mode, metadata.uid, metadata.gid);
        record.links = inode.nlink as u16;
        match &inode.kind {
            InodeKind::File(content) => {
                record.size = content.size;
                let map = self.content(content)?;
                self.map(number, &map, &mut record)?;
            }
            InodeKind::Directory(children) => self.directory(step, number, children, &mut record)?,
            InodeKind::Symlink(target) => {
                record.size = target.len() as u64;
                if target.len() <= TARGET_INSIDE {
                    record.map[..target.len()].copy_from_slice(target);
                } else {
                    let mut map = BlockMapping::default();
                    map.allocate(&mut self.near, 0, 1, |_, run| self.metadata.put(run.start * BLOCK as u64, target))?;
                    self.map(number, &map, &mut record)?;
                }
            }
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                record.map = device(*major, *minor);
            }
            InodeKind::Fifo => {}
        }
        self.attributes(&metadata.xattrs, number, &mut record)?;
        self.record(number, &record)
    }

    fn directory(&mut self, step: &Step, number: u32, children: &'a Children, record: &mut Record) -> Result<()> {
        let depth = match &*step.path {
            b"" => 0,
            path => 1 + path.iter().filter(|&&byte| byte == b'/').count(),
        };
        let parent = if depth == 0 { ROOT_INODE } else { self.ancestors[depth - 1] };
        self.ancestors.truncate(depth);
        self.ancestors.push(number);
        self.directories[self.geometry.group_of(number)] += 1;

        let shape = Shape::new(children, &self.identity.hash_seed()).ok_or_else(full)?;
        let mut map = BlockMapping::default();
        map.allocate(&mut self.near, 0, shape.blocks(), |_, _| Ok(()))?;
        let mut blocks = map.mappings.iter().flat_map(|it| it.physical..it.physical + u64::from(it.length));
        let (tree, numbers) = (self.tree, &self.survey.numbers);
        let target = |id: crate::tree::InodeId| (numbers[id.index()], type_of(tree.inode(id)).in_directory());
        shape.write(number, parent, self.seed, target, |bytes| {
            let block = blocks.next().ok_or_else(full)?;
            self.metadata.put(block * BLOCK as u64, bytes)
        })?;
        record.size = map.blocks * BLOCK as u64;
        if shape.indexed() {
            record.flags |= INDEX;
        }
        let inside = children.values().filter(|&&child| type_of(tree.inode(child)) == Type::Directory).count();
        // With `dir_nlink`, 1 says that there are too many to count.
        record.links = u16::try_from(inside + 2).ok().filter(|&it| u32::from(it) <= LINKS_MAX).unwrap_or(1);
        self.map(number, &map, record)
    }

    /// Copies a file's data into the image.
    fn content(&mut self, content: &Content) -> Result<BlockMapping> {
        let mut map = BlockMapping::default();
        let (contents, data) = (self.contents, &mut self.data);
        for (first, count) in data_blocks(content) {
            map.allocate(&mut self.far, first, count, |logical, run| copy(contents, content, logical, data, run))?;
        }
        Ok(map)
    }

    fn attributes(&mut self, xattrs: &Xattrs, number: u32, record: &mut Record) -> Result<()> {
        let Some(set) = xattrs else {
            return Ok(());
        };
        let plan = XattrPlan::new(set);
        record.attributes = plan.inside();
        if !plan.has_block() {
            return Ok(());
        }
        let mut numbers = Vec::new();
        for (value, at) in plan.outside().zip(number.max(FIRST_INODE - 1) + 1..) {
            numbers.push(at);
            // Linux counts a value's blocks with the inode that it belongs to.
            record.blocks += self.value(at, value)?;
        }
        let block = match shared_set(xattrs, &plan) {
            Some(set) => self.shared_block(set, &plan)?,
            None => self.attribute_block(&plan, 1, &numbers)?,
        };
        record.attribute_block = block as u32;
        record.blocks += 1;
        Ok(())
    }

    fn attribute_block(&mut self, plan: &XattrPlan, shared_by: u32, numbers: &[u32]) -> Result<u64> {
        let block = self.near.take(1).ok_or_else(full)?.start;
        self.metadata.put(block * BLOCK as u64, &plan.block(self.seed, block, shared_by, numbers))?;
        Ok(block)
    }

    fn shared_block(&mut self, set: SetId, plan: &XattrPlan) -> Result<u64> {
        let waiting = match self.shared.get_mut(&set) {
            Some(shared) if shared.open > 0 => {
                shared.open -= 1;
                return Ok(shared.block);
            }
            Some(shared) => shared.waiting,
            None => self.survey.sharers.get(&set).copied().unwrap_or(1),
        };
        let sharers = waiting.min(SHARED_MAX);
        let block = self.attribute_block(plan, sharers, &[])?;
        self.shared.insert(set, SharedBlock { block, open: sharers - 1, waiting: waiting - sharers });
        Ok(block)
    }

    /// The inode of an attribute's value: its access time holds the hash, its version the number of users.
    /// Returns its number of blocks.
    fn value(&mut self, number: u32, value: &[u8]) -> Result<u64> {
        let mut map = BlockMapping::default();
        map.allocate(&mut self.far, 0, value.len().div_ceil(BLOCK) as u64, |logical, run| {
            let from = logical as usize * BLOCK;
            let to = value.len().min(from + run.length as usize * BLOCK);
            self.data.put(run.start * BLOCK as u64, &value[from..to])
        })?;
        let hash = value_hash(self.seed, value);
        let mut record = Record::new(Type::File, Times::all(epoch(0)));
        record.times.access = epoch(i64::from(hash as i32));
        (record.permissions, record.size, record.version, record.flags) = (0o600, value.len() as u64, 1, EA_INODE);
        self.map(number, &map, &mut record)?;
        self.record(number, &record)?;
        Ok(map.blocks)
    }
}

/// Copies the blocks of a file that go to `run`, with zeros up to the last block's end.
fn copy(
    contents: &dyn Contents,
    content: &Content,
    logical: u64,
    data: &mut Stream,
    run: AdjacentBlocks,
) -> Result<()> {
    let block = BLOCK as u64;
    let (mut from, mut to) = (logical * block, run.start * block);
    let (end, file_end) = (to + run.length * block, content.size);
    while to < end {
        let wanted = (end - to).min(1 << 30) as usize;
        let space = data.space(to, wanted)?;
        let inside = file_end.saturating_sub(from).min(space.len() as u64) as usize;
        let read = if inside > 0 { contents.read_at(content, from, &mut space[..inside])? } else { 0 };
        if read != inside {
            return Err(Error::new(Code::Io, format!("a stored file ended {} bytes early", inside - read)));
        }
        space[inside..].fill(0);
        from += space.len() as u64;
        to += space.len() as u64;
    }
    Ok(())
}

/// The blocks of one inode.
#[derive(Default)]
struct BlockMapping {
    mappings: Vec<Mapping>,
    blocks: u64,
}

impl BlockMapping {
    /// Takes blocks for `count` blocks of the file from `first` on, and hands each run to `fill` with its first block.
    fn allocate(
        &mut self,
        room: &mut Allocator,
        first: u64,
        count: u64,
        mut fill: impl FnMut(u64, AdjacentBlocks) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < count {
            let run = room.take((count - done).min(EXTENT_BLOCKS)).ok_or_else(full)?;
            let logical = first + done;
            let mapping = Mapping { logical: logical as u32, physical: run.start, length: run.length as u32 };
            self.mappings.push(mapping);
            fill(logical, run)?;
            done += run.length;
        }
        self.blocks += count;
        Ok(())
    }
}
