//! The names of an image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::image::Image;
use super::metadata::{MetadataReader, Place};
use super::records::{Inode, InodeBody};
use super::superblock::Superblock;
use crate::contents::Content;
use crate::entry::{self, Xattrs};
use crate::error::Result;
use crate::limits::Limits;
use crate::read::common::{self, device_numbers, invalid};
use crate::read::source::{Fields, ReadAt, Volume};
use crate::read::walk::{Directory, DirectoryWalk};
use crate::tree::InodeKind;

/// Bytes of the head of a run of names, and of a name's entry without it.
const RUN: usize = 12;
const ENTRY: usize = 8;
/// Names that follow one head.
const RUN_MAX: u32 = 256;

/// Reads an image.
///
/// # Errors
/// As [`crate::read::read`].
pub fn read(source: Arc<dyn ReadAt>, limits: &Limits) -> Result<common::Image> {
    let volume = Volume::new(source);
    let (superblock, algorithm) = Superblock::read(&volume)?;
    let metadata = MetadataReader::new(volume.clone(), algorithm);
    let (open, fragments) = (Mutex::default(), Mutex::default());
    let image = Image { volume, algorithm, superblock, metadata, open, fragments };
    let mut reading = Reading { image: &image, walk: DirectoryWalk::new(limits), sets: HashMap::new() };
    reading.all()?;
    let tree = reading.walk.finish();
    Ok(common::Image { tree, contents: Arc::new(image) })
}

struct Reading<'i> {
    image: &'i Image,
    walk: DirectoryWalk<Place, NamesAt>,
    sets: HashMap<u32, Xattrs>,
}

/// The size of a directory, and where its names are.
type NamesAt = (u64, Place);

impl Reading<'_> {
    fn all(&mut self) -> Result<()> {
        let place = self.image.superblock.root;
        let inode = self.image.inode(place, false)?;
        let InodeBody::Directory(size, names) = inode.body else { return Err(invalid("its root is no directory")) };
        let metadata = self.metadata(&inode)?;
        self.walk.begin(place, metadata, (size, names));
        while let Some(directory) = self.walk.next() {
            self.directory(&directory)?;
        }
        Ok(())
    }

    fn metadata(&mut self, inode: &Inode) -> Result<entry::Metadata> {
        let xattrs = match inode.set {
            None => None,
            Some(set) => match self.sets.get(&set) {
                Some(known) => known.clone(),
                None => {
                    let found = self.walk.planting.shared(self.image.attributes(set)?)?;
                    self.sets.insert(set, found.clone());
                    found
                }
            },
        };
        let Inode { mode, uid, gid, mtime, .. } = *inode;
        Ok(entry::Metadata { mode, uid, gid, mtime, xattrs })
    }

    fn directory(&mut self, directory: &Directory<NamesAt>) -> Result<()> {
        let (size, place) = directory.names;
        let mut left = Image::names_length(size);
        if left == 0 {
            return Ok(());
        }
        self.walk.planting.charge_bytes(left)?;
        let mut take = |length: usize| {
            left = left.checked_sub(length as u64).ok_or_else(|| invalid("a directory ends within a name"))?;
            Ok::<bool, crate::error::Error>(left > 0)
        };
        let mut stream = self.image.metadata.at(self.image.superblock.directories, place)?;
        loop {
            let head = stream.bytes(RUN)?;
            let mut more = take(RUN)?;
            let (count, block) = (head.u32(0)?.saturating_add(1), head.u32(4)?);
            if count > RUN_MAX {
                return Err(invalid(format!("{count} names behind one head of a directory")));
            }
            for _ in 0..count {
                let entry = stream.bytes(ENTRY)?;
                let name = stream.bytes(usize::from(entry.u16(6)?) + 1)?;
                more = take(ENTRY + name.len())?;
                let place = Place { block: block.into(), offset: entry.u16(0)?.into() };
                self.name(&name, place, entry.u16(4)?, directory)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn name(&mut self, name: &[u8], place: Place, kind: u16, directory: &Directory<NamesAt>) -> Result<()> {
        if self.walk.link(directory, name, place)? {
            return Ok(());
        }
        let inode = self.image.inode(place, false)?;
        if kind != inode.kind {
            return Err(invalid(format!("\"{}\" has a type that is not its inode's", name.escape_ascii())));
        }
        let metadata = self.metadata(&inode)?;
        let (kind, names) = match inode.body {
            InodeBody::Directory(size, names) => (InodeKind::Directory(Default::default()), Some((size, names))),
            InodeBody::File(file) => {
                self.walk.planting.allow_list(file.size >> self.image.superblock.block_bits, 4)?;
                let position = place.block << 16 | place.offset as u64;
                let extents = self.image.runs(place, &file)?;
                (InodeKind::File(Content { layer: 0, position, size: file.size, extents }), None)
            }
            InodeBody::Symlink(target) => (InodeKind::Symlink(target.into()), None),
            InodeBody::BlockDevice(device) => {
                let (major, minor) = device_numbers(device);
                (InodeKind::BlockDevice { major, minor }, None)
            }
            InodeBody::CharDevice(device) => {
                let (major, minor) = device_numbers(device);
                (InodeKind::CharDevice { major, minor }, None)
            }
            InodeBody::Fifo => (InodeKind::Fifo, None),
        };
        self.walk.add(directory, name, place, (metadata, kind), names)
    }
}
