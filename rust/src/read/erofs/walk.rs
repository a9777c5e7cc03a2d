//! The names of an image, and the contents of its files.

use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use super::records::Inode;
use super::superblock::Superblock;
use crate::contents::{Content, Contents};
use crate::entry::Metadata;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::read::common::{self, check_type, device_numbers, invalid, kind_of, wanted};
use crate::read::source::{Fields, ReadAt, Volume};
use crate::read::walk::{Directory, DirectoryWalk};
use crate::tree::InodeKind;

/// Bytes of an entry of a directory without its name.
const ENTRY: usize = 12;
/// Files whose maps are kept.
const OPEN: usize = 4;

/// Reads an image, whose data may be on `devices` as well, in the order of its table. Devices that are not given are
/// missed when their data are.
///
/// # Errors
/// As [`crate::read::read`].
pub fn read(source: Arc<dyn ReadAt>, devices: Vec<Arc<dyn ReadAt>>, limits: &Limits) -> Result<common::Image> {
    let volumes: Vec<Volume> = [source].into_iter().chain(devices).map(Volume::new).collect();
    let superblock = Superblock::read(&volumes[0])?;
    let (packed, open) = (Mutex::new(None), Mutex::new(Vec::new()));
    let mut image = Image { volumes, superblock, prefixes: Vec::new(), packed, open };
    image.prefixes = image.read_prefixes()?;
    let mut reading = Reading { image: &image, walk: DirectoryWalk::new(limits) };
    reading.all()?;
    let tree = reading.walk.finish();
    Ok(common::Image { tree, contents: Arc::new(image) })
}

impl Contents for Image {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = wanted(content, offset, buffer.len());
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut open = open();
            open.iter().position(|each| each.inode.nid == content.position).map(|index| open.remove(index))
        };
        let mut opened = match known {
            Some(opened) => opened,
            None => self.opened(content.position)?,
        };
        self.read(&mut opened, offset, &mut buffer[..length])?;
        let mut open = open();
        open.push(opened);
        if open.len() > OPEN {
            open.remove(0);
        }
        Ok(length)
    }
}

/// A tree on its way. Where data stand is found when they are read, not kept for all directories that wait.
struct Reading<'i> {
    image: &'i Image,
    walk: DirectoryWalk<u64>,
}

impl Reading<'_> {
    fn all(&mut self) -> Result<()> {
        let root = self.image.opened(self.image.superblock.root)?;
        if root.inode.kind() != 0o04 {
            return Err(invalid("its root is no directory"));
        }
        let metadata = self.metadata(&root.inode)?;
        self.walk.begin(root.inode.nid, metadata, root.inode.nid);
        while let Some(directory) = self.walk.next() {
            self.directory(&directory).map_err(|error| in_directory(error, directory.names))?;
        }
        Ok(())
    }

    fn metadata(&mut self, inode: &Inode) -> Result<Metadata> {
        let xattrs = self.walk.planting.shared(self.image.attributes(inode)?)?;
        Ok(Metadata { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs })
    }

    /// Reads the names of a directory block by block.
    fn directory(&mut self, directory: &Directory<u64>) -> Result<()> {
        let opened = self.image.opened(directory.names)?;
        let (size, block) = (opened.inode.size, self.image.superblock.directory_block);
        self.walk.planting.charge_bytes(size)?;
        let mut buffer = vec![0; block as usize];
        let mut offset = 0;
        while offset < size {
            let length = block.min(size - offset) as usize;
            self.image.fill(&opened, offset, &mut buffer[..length])?;
            self.block(&buffer[..length], directory)?;
            offset += length as u64;
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8], directory: &Directory<u64>) -> Result<()> {
        let first = usize::from(block.u16(8)?);
        if first < ENTRY || first % ENTRY != 0 || first > block.len() {
            return Err(invalid("a block of names does not begin with entries"));
        }
        for at in (0..first).step_by(ENTRY) {
            let from = usize::from(block.u16(at + 8)?);
            let rest = block.get(from..).unwrap_or_default();
            let name = if at + ENTRY < first {
                let end = usize::from(block.u16(at + ENTRY + 8)?);
                block.get(from..end).unwrap_or_default()
            } else {
                rest.split(|&byte| byte == 0).next().unwrap_or_default()
            };
            if !matches!(name, b"." | b"..") {
                self.name(name, block.u64(at)?, block.u8(at + 10)?, directory)?;
            }
        }
        Ok(())
    }

    fn name(&mut self, name: &[u8], nid: u64, stated: u8, directory: &Directory<u64>) -> Result<()> {
        if self.walk.link(directory, name, nid)? {
            return Ok(());
        }
        let (image, opened) = (self.image, self.image.opened(nid)?);
        let inode = &opened.inode;
        check_type(name, stated, inode.mode)?;
        let metadata = self.metadata(inode)?;
        let file = || {
            let extents = image.runs(&opened);
            Ok(InodeKind::File(Content { layer: 0, position: inode.nid, size: inode.size, extents }))
        };
        let target = |length| {
            let mut target = vec![0; length];
            image.fill(&opened, 0, &mut target)?;
            Ok(target)
        };
        let kind = kind_of(name, inode.mode.into(), device_numbers(inode.data), inode.size, file, target)?;
        let names = matches!(kind, InodeKind::Directory(_)).then_some(nid);
        self.walk.add(directory, name, nid, (metadata, kind), names)
    }
}

fn in_directory(mut error: Error, nid: u64) -> Error {
    error.message += &format!(" (in the directory of inode {nid})");
    error
}
