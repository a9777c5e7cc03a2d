//! The names of an image, and the contents of its files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use super::records::{Inode, Opened};
use super::superblock::Superblock;
use crate::contents::{Content, Contents};
use crate::entry::Metadata;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::path::TARGET_MAX;
use crate::read::common::{self, device_numbers, invalid, wanted};
use crate::read::planting::Planting;
use crate::read::source::{Fields, ReadAt, Volume};
use crate::tree::{InodeId, InodeKind};

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
    let mut reading = Reading { image: &image, planting: Planting::new(limits), known: HashMap::new() };
    reading.walk()?;
    let tree = reading.planting.finish();
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

/// A tree on its way.
struct Reading<'i> {
    image: &'i Image,
    planting: Planting,
    known: HashMap<u64, InodeId>,
}

/// A directory that is still to be read.
struct Waiting {
    id: InodeId,
    nid: u64,
    depth: usize,
}

impl Reading<'_> {
    fn walk(&mut self) -> Result<()> {
        let root = self.image.opened(self.image.superblock.root)?;
        if root.inode.kind() != 0o04 {
            return Err(invalid("its root is no directory"));
        }
        let id = self.planting.root();
        let metadata = self.metadata(&root.inode)?;
        self.planting.set_root(metadata);
        self.known.insert(root.inode.nid, id);
        let mut waiting = vec![Waiting { id, nid: root.inode.nid, depth: 0 }];
        while let Some(directory) = waiting.pop() {
            self.directory(&directory, &mut waiting).map_err(|error| in_directory(error, directory.nid))?;
        }
        Ok(())
    }

    fn metadata(&mut self, inode: &Inode) -> Result<Metadata> {
        let xattrs = self.planting.shared(self.image.attributes(inode)?)?;
        Ok(Metadata { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs })
    }

    /// Reads the names of a directory block by block.
    fn directory(&mut self, directory: &Waiting, waiting: &mut Vec<Waiting>) -> Result<()> {
        // Where data stand is found when they are read, not kept for all directories that wait.
        let opened = self.image.opened(directory.nid)?;
        let (size, block) = (opened.inode.size, self.image.superblock.directory_block);
        self.planting.charge_bytes(size)?;
        let mut buffer = vec![0; block as usize];
        let mut offset = 0;
        while offset < size {
            let length = block.min(size - offset) as usize;
            self.image.fill(&opened, offset, &mut buffer[..length])?;
            self.block(&buffer[..length], directory, waiting)?;
            offset += length as u64;
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8], directory: &Waiting, waiting: &mut Vec<Waiting>) -> Result<()> {
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
                self.name(name, block.u64(at)?, u16::from(block.u8(at + 10)?), directory, waiting)?;
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        name: &[u8],
        nid: u64,
        kind: u16,
        directory: &Waiting,
        waiting: &mut Vec<Waiting>,
    ) -> Result<()> {
        let depth = directory.depth + 1;
        if let Some(&known) = self.known.get(&nid) {
            if self.planting.is_directory(known) {
                return Err(invalid(format!("the directory \"{}\" has another name already", name.escape_ascii())));
            }
            return self.planting.name(directory.id, name, known, depth);
        }
        let opened = self.image.opened(nid)?;
        let inode = &opened.inode;
        // The type in the entry is a copy (erofs_fs.h, `file_type`; 0 where it was not known).
        let expected = [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7, 0, 6, 0, 0, 0][usize::from(inode.kind())];
        if expected == 0 || kind != 0 && kind != expected {
            return Err(invalid(format!("\"{}\" has a type that is not its inode's", name.escape_ascii())));
        }
        let metadata = self.metadata(inode)?;
        let kind = self.kind(&opened)?;
        let is_directory = matches!(kind, InodeKind::Directory(_));
        let id = self.planting.add(metadata, kind)?;
        self.planting.name(directory.id, name, id, depth)?;
        self.known.insert(nid, id);
        if is_directory {
            waiting.push(Waiting { id, nid, depth });
        }
        Ok(())
    }

    fn kind(&mut self, opened: &Opened) -> Result<InodeKind> {
        let inode = &opened.inode;
        let (major, minor) = device_numbers(inode.data);
        Ok(match inode.kind() {
            0o01 => InodeKind::Fifo,
            0o02 => InodeKind::CharDevice { major, minor },
            0o04 => InodeKind::Directory(Default::default()),
            0o06 => InodeKind::BlockDevice { major, minor },
            0o10 => {
                let extents = self.image.runs(opened);
                InodeKind::File(Content { layer: 0, position: inode.nid, size: inode.size, extents })
            }
            0o12 => {
                if inode.size > TARGET_MAX as u64 {
                    return Err(invalid(format!("a link target of {} bytes", inode.size)));
                }
                let mut target = vec![0; inode.size as usize];
                self.image.fill(opened, 0, &mut target)?;
                InodeKind::Symlink(target.into())
            }
            0o14 => return Err(invalid("a socket, which is no part of an image")),
            other => return Err(invalid(format!("inode {} has the unknown type {other:o}", inode.nid))),
        })
    }
}

fn in_directory(mut error: Error, nid: u64) -> Error {
    error.message += &format!(" (in the directory of inode {nid})");
    error
}
