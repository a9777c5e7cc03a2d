//! The names of an image, and the contents of its files.

use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use super::records::Inode;
use super::superblock::Superblock;
use crate::contents::{Content, Contents, Extents};
use crate::entry::Metadata;
use crate::error::Result;
use crate::limits::Limits;
use crate::read::common::{self, check_type, device_numbers, invalid, kind_of, wanted};
use crate::read::source::{Fields, ReadAt, Volume};
use crate::read::walk::{Directory, DirectoryWalk};
use crate::tree::InodeKind;

/// The inode of the root.
const ROOT: u32 = 2;
/// Bytes of a name's entry without it.
const ENTRY: usize = 8;
/// A target that is shorter stands in the inode.
const SHORT_TARGET: usize = 60;
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
    let mut reading = Reading { image: &image, walk: DirectoryWalk::new(limits) };
    reading.all()?;
    let tree = reading.walk.finish();
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
    walk: DirectoryWalk<u32>,
}

impl Reading<'_> {
    fn all(&mut self) -> Result<()> {
        let inode = self.image.inode(ROOT)?;
        if inode.kind() != 0o04 {
            return Err(invalid("its root is no directory"));
        }
        let metadata = self.metadata(&inode)?;
        self.walk.begin(ROOT, metadata, ROOT);
        while let Some(directory) = self.walk.next() {
            self.directory(&directory)?;
        }
        Ok(())
    }

    fn metadata(&mut self, inode: &Inode) -> Result<Metadata> {
        let xattrs = self.walk.planting.shared(self.image.attributes(inode)?)?;
        Ok(Metadata { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs })
    }

    /// Reads the names block by block; what a hash index adds looks like entries without an inode.
    fn directory(&mut self, directory: &Directory<u32>) -> Result<()> {
        let inode = self.image.inode(directory.names)?;
        let (runs, block) = (self.image.runs(&inode)?, self.image.superblock.block);
        self.walk.planting.charge_bytes(inode.size)?;
        let mut buffer = vec![0; block as usize];
        for at in (0..inode.size).step_by(block as usize) {
            self.image.fill(&runs, at, &mut buffer)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let (number, length, name) = (rest.u32(0)?, usize::from(rest.u16(4)?), usize::from(rest.u8(6)?));
                // 64 KiB, the length of the largest block, is written as one that no entry has.
                let length = if matches!(length, 0 | 65535) && block == 65536 { rest.len() } else { length };
                if length < ENTRY || length % 4 != 0 || length > rest.len() || name + ENTRY > length {
                    return Err(invalid(format!("the directory of inode {} has a broken entry", directory.names)));
                }
                let name = rest.part(ENTRY, name)?;
                if number != 0 && !matches!(name, b"." | b"..") {
                    self.name(name, number, rest.u8(7)?, directory)?;
                }
                rest = &rest[length..];
            }
        }
        Ok(())
    }

    fn name(&mut self, name: &[u8], number: u32, stated: u8, directory: &Directory<u32>) -> Result<()> {
        if self.walk.link(directory, name, number)? {
            return Ok(());
        }
        let inode = self.image.inode(number)?;
        check_type(name, stated, inode.mode)?;
        let metadata = self.metadata(&inode)?;
        // The old form has 8 bits for each number; the new form follows it.
        let device = match inode.map.u32(0)? {
            0 => device_numbers(inode.map.u32(4)?),
            old => (old >> 8 & 0xff, old & 0xff),
        };
        let file = || {
            let extents = self.data(&inode)?;
            Ok(InodeKind::File(Content { layer: 0, position: number.into(), size: inode.size, extents }))
        };
        let target = |length| self.target(&inode, length);
        let kind = kind_of(name, inode.mode.into(), device, inode.size, file, target)?;
        let names = matches!(kind, InodeKind::Directory(_)).then_some(number);
        self.walk.add(directory, name, number, (metadata, kind), names)
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

    fn target(&self, inode: &Inode, length: usize) -> Result<Vec<u8>> {
        if length < SHORT_TARGET {
            return Ok(inode.map.part(0, length)?.to_vec());
        }
        let mut target = vec![0; length];
        self.image.fill(&self.image.runs(inode)?, 0, &mut target)?;
        Ok(target)
    }
}
