//! Layers by hand, merged into a tree.

use std::sync::Arc;

use ocifast_core::batch::{Batch, StoredEntry};
use ocifast_core::contents::{Contents, Store};
use ocifast_core::entry::{Entry, Kind, Metadata, Mtime};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::output::dump;
use ocifast_core::tree::Tree;

/// Part of a file.
#[derive(Clone, Debug)]
pub enum Part {
    /// Bytes.
    Data(Vec<u8>),
    /// So many bytes of hole.
    Hole(u64),
}

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct Item {
    pub entry: Entry,
    pub parts: Vec<Part>,
}

impl Item {
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        let metadata =
            Metadata { mode: 0o644, mtime: Mtime { seconds: 1_700_000_000, nanoseconds: 0 }, ..Metadata::default() };
        Item { entry: Entry { path: path.into(), kind, metadata, offset: 0 }, parts: Vec::new() }
    }

    pub fn file(path: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Self {
        Item::sparse(path, vec![Part::Data(data.into())])
    }

    pub fn sparse(path: impl Into<Vec<u8>>, parts: Vec<Part>) -> Self {
        let size = parts.iter().map(|part| match part {
            Part::Data(data) => data.len() as u64,
            Part::Hole(length) => *length,
        });
        Item { parts: parts.clone(), ..Item::new(path, Kind::File { size: size.sum() }) }
    }

    pub fn directory(path: impl Into<Vec<u8>>) -> Self {
        Item::new(path, Kind::Directory).mode(0o755)
    }

    pub fn symlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Item::new(path, Kind::Symlink { target: target.into() }).mode(0o777)
    }

    pub fn link(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Item::new(path, Kind::HardLink { target: target.into() })
    }

    /// Hides `name` of the lower layers.
    pub fn whiteout(parent: &str, name: &str) -> Self {
        Item::file(format!("{parent}/.wh.{name}"), "")
    }

    pub fn mode(mut self, mode: u16) -> Self {
        self.entry.metadata.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.metadata.uid, self.entry.metadata.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.entry.metadata.mtime = Mtime { seconds, nanoseconds };
        self
    }

    pub fn xattr(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        let set = self.entry.metadata.xattrs.get_or_insert_default();
        Arc::make_mut(set).insert(name.as_bytes().to_vec(), value.into());
        self
    }
}

/// Bytes that differ from file to file and from block to block.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Text that compresses to about a third.
pub fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = bytes(seed, 400);
    let mut out = Vec::with_capacity(length + 8);
    for (index, byte) in bytes(seed + 1, length).into_iter().enumerate() {
        let from = usize::from(byte) + index % 100;
        out.extend_from_slice(&words[from..from + 8]);
        if out.len() >= length {
            break;
        }
    }
    out.truncate(length);
    out
}

/// The canonical text of a tree.
pub fn dumped(tree: &Tree, contents: &dyn Contents) -> String {
    let mut text = String::new();
    dump(tree, contents, |line| {
        text.push_str(line);
        Ok(())
    })
    .expect("a dump");
    text
}

/// The tree of some layers, which are read in the order of `order` into `store`.
pub fn merged(layers: &[Vec<Item>], order: &[usize], store: &impl Store) -> Result<Tree> {
    let mut ingested: Vec<Vec<StoredEntry>> = layers.iter().map(|_| Vec::new()).collect();
    for &index in order {
        let mut layer = store.layer(index as u32)?;
        for Item { entry, parts } in &layers[index] {
            let mut content = None;
            if let Kind::File { size } = entry.kind {
                layer.called(&entry.path);
                layer.begin(&entry.metadata, size)?;
                for part in parts {
                    match part {
                        Part::Data(data) => layer.data(data)?,
                        Part::Hole(length) => layer.hole(*length)?,
                    }
                }
                content = Some(layer.end()?);
            }
            ingested[index].push(StoredEntry { entry: entry.clone(), content });
        }
        layer.finish()?;
    }
    let mut merge = Merge::new(Limits::default());
    for (index, layer) in ingested.into_iter().enumerate() {
        if index == 0 { merge.lowest_layer([Ok(layer)])? } else { merge.upper_layer(vec![Batch::new(layer)])? }
    }
    Ok(merge.finish().0)
}
