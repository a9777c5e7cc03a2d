//! Inodes and listings of a whole tree.

use std::collections::btree_map;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::directory::{Name, write_listing};
use super::fit::fit;
use super::format::NOWHERE;
use super::ids::Ids;
use super::inode::{FileBlocks, Head, Type};
use super::metadata::{MetadataWriter, Position};
use super::placed::Placed;
use super::store::SquashfsStore;
use super::xattr::XattrTable;
use crate::error::{Code, Error, Result};
use crate::output::{CHUNK, Losses, device_number};
use crate::tree::{InodeId, InodeKind, Tree};

/// What is written of a tree: the inodes go into the image at once, the rest is short.
pub struct TreeWriter<'a> {
    tree: &'a Tree,
    store: &'a SquashfsStore,
    placed: &'a Placed,
    clamp_mtime: Option<i64>,
    image: &'a File,
    /// Where the next block of inodes goes.
    end: u64,
    inodes: MetadataWriter,
    directories: MetadataWriter,
    /// By inode: its number, from 1 on in the order of the tree.
    numbers: Vec<u32>,
    /// By number less one: a reference to the inode, [`NOWHERE`] until it is written.
    places: Vec<u64>,
    /// Path of the inode that is being written.
    path: Vec<u8>,
    ids: Ids,
    xattrs: XattrTable,
    losses: Losses,
}

/// The tables that are left to write.
pub struct Remaining {
    /// A reference to the root's inode.
    pub root: u64,
    /// Where the inodes end in the image.
    pub end: u64,
    /// All listings.
    pub directories: Vec<u8>,
    /// Where each inode is, in the order of their numbers.
    pub export: Vec<u8>,
    /// Owners and groups.
    pub ids: Ids,
    /// Attributes.
    pub xattrs: XattrTable,
    /// What the image cannot hold.
    pub losses: Losses,
}

/// A directory on its way.
struct Open<'t> {
    id: InodeId,
    /// Bytes of its path.
    path: usize,
    /// Children of which those that are directories are to be written first.
    left: btree_map::Iter<'t, Box<[u8]>, InodeId>,
}

impl<'a> TreeWriter<'a> {
    /// Writes the inodes of a tree to `image` from `at` on.
    ///
    /// # Errors
    /// `output_unsupported` when the tree is beyond the format's bounds; `io_error`.
    pub fn write(
        tree: &'a Tree,
        store: &'a SquashfsStore,
        placed: &'a Placed,
        clamp_mtime: Option<i64>,
        image: &'a File,
        at: u64,
    ) -> Result<Remaining> {
        let mut numbers = vec![0; tree.inode_bound()];
        let mut count = 0;
        for step in tree.walk().filter(|step| step.first) {
            count += 1;
            numbers[step.inode.index()] = count;
        }
        let compression = store.compression();
        let mut writer = TreeWriter {
            tree,
            store,
            placed,
            clamp_mtime,
            image,
            end: at,
            inodes: MetadataWriter::new(compression)?,
            directories: MetadataWriter::new(compression)?,
            numbers,
            places: vec![NOWHERE; count as usize],
            path: Vec::new(),
            ids: Ids::default(),
            xattrs: XattrTable::new(compression)?,
            losses: Losses::default(),
        };
        writer.directories()?;
        writer.finish()
    }

    fn finish(mut self) -> Result<Remaining> {
        self.flush()?;
        let rest = self.inodes.finish()?;
        self.image.write_all_at(&rest, self.end).map_err(|error| Error::io("cannot write the image", &error))?;
        if self.places.contains(&NOWHERE) {
            return Err(Error::new(Code::Internal, "an inode was not written"));
        }
        Ok(Remaining {
            root: self.places.first().copied().unwrap_or_default(),
            end: self.end + rest.len() as u64,
            directories: self.directories.finish()?,
            export: self.places.iter().flat_map(|place| place.to_le_bytes()).collect(),
            ids: self.ids,
            xattrs: self.xattrs,
            losses: self.losses,
        })
    }

    /// Writes all directories, each after all that is below it. The inodes of a directory's files stand together.
    fn directories(&mut self) -> Result<()> {
        // The number of the root's parent is one that there is not.
        let outside = self.places.len() as u32 + 1;
        let mut open = Vec::new();
        open.extend(self.open(self.tree.root()));
        while let Some(directory) = open.last_mut() {
            self.path.truncate(directory.path);
            if let Some((name, &child)) = directory.left.next() {
                below(&mut self.path, name);
                open.extend(self.open(child));
                continue;
            }
            let Some(directory) = open.pop() else { break };
            let parent = open.last().map_or(outside, |parent| self.numbers[parent.id.index()]);
            self.close(&directory, parent)?;
        }
        Ok(())
    }

    /// Begins with the inode at the path, if it is a directory.
    fn open(&self, id: InodeId) -> Option<Open<'a>> {
        let left = self.tree.inode(id).children()?.iter();
        Some(Open { id, path: self.path.len(), left })
    }

    /// Writes the files of a directory, its listing and itself.
    fn close(&mut self, directory: &Open<'_>, parent: u32) -> Result<()> {
        let tree = self.tree;
        let mut names = Vec::new();
        let mut nlink = 2;
        for (name, &child) in tree.inode(directory.id).children().into_iter().flatten() {
            let number = self.numbers[child.index()];
            let kind = type_of(&tree.inode(child).kind);
            nlink += u32::from(kind == Type::Directory);
            if self.places[number as usize - 1] == NOWHERE {
                below(&mut self.path, name);
                self.inode(child, number)?;
                self.path.truncate(directory.path);
            }
            let inode = Position::of(self.places[number as usize - 1]);
            names.push(Name { name, inode, number, kind });
        }
        let listing = write_listing(&names, &mut self.directories)?;
        let number = self.numbers[directory.id.index()];
        let head = Head { nlink, ..self.head(directory.id, number)? };
        let bytes = head.directory(&listing, parent)?;
        self.place(number);
        self.inodes.write(&bytes)?;
        self.flush()
    }

    /// Writes an inode that is no directory.
    fn inode(&mut self, id: InodeId, number: u32) -> Result<()> {
        let head = self.head(id, number)?;
        self.place(number);
        let bytes = match &self.tree.inode(id).kind {
            InodeKind::File(content) => {
                let (part, record) = self.store.record(content);
                let runs = part.runs(record);
                let (start, end) = if content.size > 0 { self.placed.place(content) } else { (0, (0, 0)) };
                let end = (self.store.tail(content) > 0).then_some(end);
                let block = self.store.compression().block as u64;
                let mut covered: u64 = 0;
                let sparse = runs.iter().map(|run| {
                    // The last block may be one that is not full.
                    let from = covered;
                    covered = content.size.min(from + run.count() * block);
                    if run.zeros().is_some() { covered - from } else { 0 }
                });
                let data = FileBlocks { size: content.size, start, runs, sparse: sparse.sum(), end };
                head.file(&data, |bytes| self.inodes.write(bytes))?;
                Vec::new()
            }
            InodeKind::Symlink(target) => head.symlink(target),
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                let kind = type_of(&self.tree.inode(id).kind);
                head.device(kind, device_number(*major, *minor)?)
            }
            InodeKind::Fifo => head.fifo(),
            InodeKind::Directory(_) => unreachable!("a directory is written after what is in it"),
        };
        self.inodes.write(&bytes)?;
        self.flush()
    }

    /// The next inode written is this one.
    fn place(&mut self, number: u32) {
        self.places[number as usize - 1] = self.inodes.position().reference();
    }

    fn head(&mut self, id: InodeId, number: u32) -> Result<Head> {
        let inode = self.tree.inode(id);
        let mut metadata = inode.metadata.clone();
        fit(&self.path, &mut metadata, self.clamp_mtime, &mut self.losses);
        Ok(Head {
            mode: metadata.mode,
            uid: self.ids.number(metadata.uid)?,
            gid: self.ids.number(metadata.gid)?,
            mtime: u32::try_from(metadata.mtime.seconds).unwrap_or_default(),
            number,
            nlink: inode.nlink,
            xattrs: self.xattrs.number(&metadata)?,
        })
    }

    /// Writes blocks of inodes that are complete, when there are many.
    fn flush(&mut self) -> Result<()> {
        if self.inodes.waiting() < CHUNK {
            return Ok(());
        }
        let bytes = self.inodes.take();
        self.image.write_all_at(&bytes, self.end).map_err(|error| Error::io("cannot write the image", &error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// Goes from a directory's path to that of a child.
fn below(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

fn type_of(kind: &InodeKind) -> Type {
    match kind {
        InodeKind::File(_) => Type::File,
        InodeKind::Directory(_) => Type::Directory,
        InodeKind::Symlink(_) => Type::Symlink,
        InodeKind::CharDevice { .. } => Type::CharDevice,
        InodeKind::BlockDevice { .. } => Type::BlockDevice,
        InodeKind::Fifo => Type::Fifo,
    }
}
