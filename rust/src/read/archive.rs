//! What archives have in common: members by their paths, and data that are stored in the archive unchanged.

use std::sync::Arc;

use super::common::{invalid, wanted};
use super::planting::Planting;
use super::source::Volume;
use crate::contents::{Content, Contents, Extent, read_runs};
use crate::entry::Metadata;
use crate::error::Result;
use crate::limits::Limits;
use crate::tree::{InodeId, InodeKind, Tree};

/// Data of one file: where they begin in the archive, its size, and its runs where it has holes.
pub(super) struct ArchiveData {
    pub start: u64,
    pub size: u64,
    pub runs: Option<Arc<[Extent]>>,
}

impl ArchiveData {
    /// Data without holes.
    pub fn run(start: u64, size: u64) -> Self {
        ArchiveData { start, size, runs: None }
    }

    fn content(self) -> Content {
        Content { layer: 0, position: self.start, size: self.size, extents: self.runs }
    }
}

/// The data of an archive.
pub(super) struct Archive(Volume);

impl Archive {
    pub fn new(volume: Volume) -> Self {
        Archive(volume)
    }

    pub fn file(&self, part: ArchiveData) -> InodeKind {
        InodeKind::File(part.content())
    }

    /// Gives a file its data.
    pub fn set(&self, inode: InodeId, names: &mut Names, part: ArchiveData) -> Result<()> {
        names.planting.set_content(inode, part.content())
    }
}

impl Contents for Archive {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = wanted(content, offset, buffer.len());
        read_runs(content, offset, &mut buffer[..length], |at, part| self.0.fill(content.position + at, part))
    }
}

/// A tree made of paths. Members come in an order in which parents are first, as a tree's own outputs have them.
pub(super) struct Names {
    planting: Planting,
    rooted: bool,
}

impl Names {
    pub fn new(limits: &Limits) -> Self {
        Names { planting: Planting::new(limits), rooted: false }
    }

    pub fn planting(&mut self) -> &mut Planting {
        &mut self.planting
    }

    /// An inode with its first name. The root is `.`.
    ///
    /// # Errors
    /// `filesystem_invalid` for a path that stands twice, or whose parent is not there.
    pub fn add(&mut self, path: &[u8], metadata: Metadata, kind: InodeKind) -> Result<InodeId> {
        if components(path).is_empty() {
            if !matches!(kind, InodeKind::Directory(_)) || std::mem::replace(&mut self.rooted, true) {
                return Err(invalid("its root is no directory, or stands twice"));
            }
            self.planting.set_root(metadata);
            return Ok(self.planting.root());
        }
        let id = self.planting.add(metadata, kind)?;
        self.name(path, id)?;
        Ok(id)
    }

    /// One name of an inode.
    pub fn name(&mut self, path: &[u8], inode: InodeId) -> Result<()> {
        let components = components(path);
        let Some((name, parents)) = components.split_last() else { return Err(invalid("a path without a name")) };
        let parent = self.find(parents).filter(|&parent| self.planting.is_directory(parent));
        let parent = parent.ok_or_else(|| invalid(format!("{} stands in no directory", path.escape_ascii())))?;
        self.planting.name(parent, name, inode, components.len())
    }

    /// The inode of a path that was there before.
    pub fn known(&self, path: &[u8]) -> Result<InodeId> {
        let found = self.find(&components(path)).filter(|&inode| !self.planting.is_directory(inode));
        found.ok_or_else(|| invalid(format!("a hard link to {}, which is not there", path.escape_ascii())))
    }

    fn find(&self, components: &[&[u8]]) -> Option<InodeId> {
        components.iter().try_fold(self.planting.root(), |directory, name| self.planting.child(directory, name))
    }

    pub fn finish(self) -> Tree {
        self.planting.finish()
    }
}

/// The names of a path; those of the root are none.
fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect()
}
