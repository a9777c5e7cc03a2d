//! The names of an image, and the contents of its files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use super::records::Inode;
use super::superblock::Superblock;
use crate::contents::{Content, Contents, Extents};
use crate::entry::Metadata;
use crate::error::Result;
use crate::limits::Limits;
use crate::path::TARGET_MAX;
use crate::read::common::{self, device_numbers, invalid, wanted};
use crate::read::planting::Planting;
use crate::read::source::{Fields, ReadAt, Volume};
use crate::tree::{InodeId, InodeKind};

/// The inode of the root.
const ROOT: u32 = 2;
/// Bytes of a name's entry without it.
const ENTRY: usize = 8;
/// A target that is shorter stands in the inode.
const SHORT_TARGET: u64 = 60;
/// Files whose runs are kept.
const OPEN: usize = 4;

/// Reads an image.
///
/// # Errors
/// As [`crate::read::read`].
pub fn read(source: Arc<dyn ReadAt>, limits: &Limits) -> Result<common::Image> {
    let volume = Volume::new(source);
    let superblock = Superblock::read(&volume)?;
    let image = Image { volume, superblock, open: Mutex::default() };
    let mut reading = Reading { image: &image, planting: Planting::new(limits), known: HashMap::new() };
    reading.walk()?;
    let tree = reading.planting.finish();
    Ok(common::Image { tree, contents: Arc::new(image) })
}

impl Contents for Image {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = wanted(content, offset, buffer.len());
        let number = u32::try_from(content.position).map_err(|_| invalid("there is no such inode"))?;
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut open = open();
            open.iter().position(|(known, _)| *known == number).map(|index| open.remove(index))
        };
        let (_, runs) = match known {
            Some(known) => known,
            None => (number, self.runs(&self.inode(number)?)?),
        };
        self.fill(&runs, offset, &mut buffer[..length])?;
        let mut open = open();
        open.push((number, runs));
        if open.len() > OPEN {
            open.remove(0);
        }
        Ok(length)
    }
}

struct Reading<'i> {
    image: &'i Image,
    planting: Planting,
    known: HashMap<u32, InodeId>,
}

/// A directory whose names are still to be read.
struct Waiting {
    id: InodeId,
    number: u32,
    depth: usize,
}

impl Reading<'_> {
    fn walk(&mut self) -> Result<()> {
        let inode = self.image.inode(ROOT)?;
        if inode.kind() != 0o04 {
            return Err(invalid("its root is no directory"));
        }
        let metadata = self.metadata(&inode)?;
        self.planting.set_root(metadata);
        let id = self.planting.root();
        self.known.insert(ROOT, id);
        let mut waiting = vec![Waiting { id, number: ROOT, depth: 0 }];
        while let Some(directory) = waiting.pop() {
            self.directory(&directory, &mut waiting)?;
        }
        Ok(())
    }

    fn metadata(&mut self, inode: &Inode) -> Result<Metadata> {
        let xattrs = self.planting.shared(self.image.attributes(inode)?)?;
        Ok(Metadata { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs })
    }

    /// Reads the names block by block; what a hash index adds looks like entries without an inode.
    fn directory(&mut self, directory: &Waiting, waiting: &mut Vec<Waiting>) -> Result<()> {
        let inode = self.image.inode(directory.number)?;
        let (runs, block) = (self.image.runs(&inode)?, self.image.superblock.block);
        self.planting.charge_bytes(inode.size)?;
        let mut buffer = vec![0; block as usize];
        for at in (0..inode.size).step_by(block as usize) {
            self.image.fill(&runs, at, &mut buffer)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let (number, length, name) = (rest.u32(0)?, usize::from(rest.u16(4)?), usize::from(rest.u8(6)?));
                // 64 KiB, the length of the largest block, is written as one that no entry has.
                let length = if matches!(length, 0 | 65535) && block == 65536 { rest.len() } else { length };
                if length < ENTRY || length % 4 != 0 || length > rest.len() || name + ENTRY > length {
                    return Err(invalid(format!("the directory of inode {} has a broken entry", directory.number)));
                }
                let name = rest.part(ENTRY, name)?;
                if number != 0 && !matches!(name, b"." | b"..") {
                    self.name(name, number, rest.u8(7)?, directory, waiting)?;
                }
                rest = &rest[length..];
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        name: &[u8],
        number: u32,
        kind: u8,
        directory: &Waiting,
        waiting: &mut Vec<Waiting>,
    ) -> Result<()> {
        let depth = directory.depth + 1;
        if let Some(&known) = self.known.get(&number) {
            if self.planting.is_directory(known) {
                return Err(invalid(format!("the directory \"{}\" has another name already", name.escape_ascii())));
            }
            return self.planting.name(directory.id, name, known, depth);
        }
        let inode = self.image.inode(number)?;
        let expected = [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7, 0, 6, 0, 0, 0][usize::from(inode.kind())];
        if expected == 0 || kind != 0 && kind != expected {
            return Err(invalid(format!("\"{}\" has a type that is not its inode's", name.escape_ascii())));
        }
        let metadata = self.metadata(&inode)?;
        let kind = self.kind(&inode)?;
        let is_directory = matches!(kind, InodeKind::Directory(_));
        let id = self.planting.add(metadata, kind)?;
        self.planting.name(directory.id, name, id, depth)?;
        self.known.insert(number, id);
        if is_directory {
            waiting.push(Waiting { id, number, depth });
        }
        Ok(())
    }

    fn kind(&self, inode: &Inode) -> Result<InodeKind> {
        // The old form has 8 bits for each number; the new form follows it.
        let (major, minor) = match inode.map.u32(0)? {
            0 => device_numbers(inode.map.u32(4)?),
            old => (old >> 8 & 0xff, old & 0xff),
        };
        Ok(match inode.kind() {
            0o01 => InodeKind::Fifo,
            0o02 => InodeKind::CharDevice { major, minor },
            0o04 => InodeKind::Directory(Default::default()),
            0o06 => InodeKind::BlockDevice { major, minor },
            0o10 => {
                let extents = self.data(inode)?;
                InodeKind::File(Content { layer: 0, position: inode.number.into(), size: inode.size, extents })
            }
            0o12 => InodeKind::Symlink(self.target(inode)?.into()),
            0o14 => return Err(invalid("a socket, which is no part of an image")),
            other => return Err(invalid(format!("inode {} has the unknown type {other:o}", inode.number))),
        })
    }

    /// The runs of data of a file that has holes.
    fn data(&self, inode: &Inode) -> Result<Option<Arc<[crate::contents::Extent]>>> {
        let block = self.image.superblock.block;
        let mut extents = Extents::default();
        for run in self.image.runs(inode)?.iter().filter(|run| !run.unwritten) {
            let (from, to) = (run.logical * block, (run.logical + run.count) * block);
            // Blocks may be kept for what does not belong to the file yet.
            let (from, to) = (from.min(inode.size), to.min(inode.size));
            extents.hole(from - extents.size());
            extents.data(to - from);
        }
        extents.hole(inode.size - extents.size());
        Ok(extents.take())
    }

    fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.size > TARGET_MAX as u64 {
            return Err(invalid(format!("a link target of {} bytes", inode.size)));
        }
        if inode.size < SHORT_TARGET {
            return Ok(inode.map.part(0, inode.size as usize)?.to_vec());
        }
        let mut target = vec![0; inode.size as usize];
        self.image.fill(&self.image.runs(inode)?, 0, &mut target)?;
        Ok(target)
    }
}
