//! Trees made by hand, with their contents in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use ocifast_core::batch::StoredEntry;
use ocifast_core::contents::{Content, Contents, Extent, read_runs};
use ocifast_core::entry::{Entry, Kind, Metadata, Mtime};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::tree::Tree;

/// The bytes of all files, back to back.
#[derive(Default)]
pub struct Memory(Vec<u8>);

impl Contents for Memory {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        read_runs(content, offset, buffer, |at, part| {
            let from = (content.position + at) as usize;
            part.copy_from_slice(&self.0[from..from + part.len()]);
            Ok(())
        })
    }
}

/// One layer on its way.
#[derive(Default)]
pub struct Maker {
    entries: Vec<StoredEntry>,
    memory: Memory,
    metadata: Metadata,
}

impl Maker {
    /// Begins with mode 0644, owner 0:0, time 0.
    pub fn new() -> Self {
        Maker { metadata: Metadata { mode: 0o644, ..Metadata::default() }, ..Maker::default() }
    }

    /// The metadata of what follows.
    pub fn with(&mut self, mode: u16, uid: u32, gid: u32, seconds: i64, nanoseconds: u32) -> &mut Self {
        self.metadata = Metadata { mode, uid, gid, mtime: Mtime { seconds, nanoseconds }, xattrs: None };
        self
    }

    /// The attributes of what follows.
    pub fn xattrs(&mut self, attributes: &[(&str, &[u8])]) -> &mut Self {
        let set: BTreeMap<Vec<u8>, Vec<u8>> =
            attributes.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        self.metadata.xattrs = (!set.is_empty()).then(|| Arc::new(set));
        self
    }

    /// An entry that is no regular file.
    pub fn entry(&mut self, path: impl AsRef<[u8]>, kind: Kind) -> &mut Self {
        let entry = Entry { path: path.as_ref().to_vec(), kind, metadata: self.metadata.clone(), offset: 0 };
        self.entries.push(StoredEntry { entry, content: None });
        self
    }

    pub fn directory(&mut self, path: impl AsRef<[u8]>) -> &mut Self {
        self.entry(path, Kind::Directory)
    }

    pub fn symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.entry(path, Kind::Symlink { target: target.as_ref().to_vec() })
    }

    pub fn link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.entry(path, Kind::HardLink { target: target.as_ref().to_vec() })
    }

    /// A regular file.
    pub fn file(&mut self, path: impl AsRef<[u8]>, bytes: &[u8]) -> &mut Self {
        self.content(path, bytes.len() as u64, None, bytes)
    }

    /// A sparse file of `size` bytes with data at the given offsets.
    pub fn sparse(&mut self, path: impl AsRef<[u8]>, size: u64, runs: &[(u64, &[u8])]) -> &mut Self {
        let mut stored = 0;
        let extents = runs.iter().map(|(offset, bytes)| {
            let length = bytes.len() as u64;
            stored += length;
            Extent { offset: *offset, length, stored: stored - length }
        });
        let extents = extents.collect();
        let bytes: Vec<u8> = runs.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        self.content(path, size, Some(extents), &bytes)
    }

    fn content(
        &mut self,
        path: impl AsRef<[u8]>,
        size: u64,
        extents: Option<Arc<[Extent]>>,
        bytes: &[u8],
    ) -> &mut Self {
        let position = self.memory.0.len() as u64;
        self.memory.0.extend_from_slice(bytes);
        self.entry(path, Kind::File { size });
        if let Some(last) = self.entries.last_mut() {
            last.content = Some(Content { layer: 0, position, size, extents });
        }
        self
    }

    /// The tree, and where its contents are.
    pub fn finish(self) -> Result<(Tree, Memory)> {
        let mut merge = Merge::new(Limits::default());
        merge.lowest_layer([Ok(self.entries)])?;
        Ok((merge.finish().0, self.memory))
    }
}
