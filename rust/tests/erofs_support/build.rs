//! Layers by hand, merged and written as an erofs image.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use ocifast_core::batch::{Batch, Ingested};
use ocifast_core::contents::Store;
use ocifast_core::entry::{Entry, Kind, Metadata, Mtime};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::output::dump;
use ocifast_core::output::erofs::{Compression, ErofsStore, Options, Summary, finish, write_compressed};
use ocifast_core::tree::Tree;
use tempfile::TempDir;

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

/// An image and what it was made from.
pub struct Built {
    pub tree: Tree,
    pub store: Arc<ErofsStore>,
    pub summary: Summary,
    pub path: PathBuf,
    pub folder: TempDir,
}

impl Built {
    pub fn image(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("the image")
    }

    /// The canonical text of the tree that the image was made from.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        dump(&self.tree, &*self.store, |line| {
            text.push_str(line);
            Ok(())
        })
        .expect("a dump");
        text
    }
}

pub fn options() -> Options {
    let build_time = Mtime { seconds: 1_700_000_000, nanoseconds: 0 };
    Options {
        uuid: *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
        build_time,
        clamp_mtime: None,
    }
}

pub fn build(layers: &[Vec<Item>]) -> Built {
    let order: Vec<usize> = (0..layers.len()).collect();
    try_build(layers, &order, &options()).expect("an image")
}

/// An image of the same tree, compressed; the path is new.
pub fn compress(built: &Built, compression: &Compression) -> (Vec<u8>, PathBuf) {
    let path = built.folder.path().join("compressed.erofs");
    // There may be one of another compression.
    let _ = std::fs::remove_file(&path);
    let summary = write_compressed(&built.tree, &*built.store, &path, &options(), compression, &mut |_, _| Ok(()))
        .expect("an image");
    let image = std::fs::read(&path).expect("the image");
    assert_eq!((summary.bytes, summary.dead), (image.len() as u64, 0));
    assert_eq!(summary.losses, built.summary.losses);
    (image, path)
}

/// Builds an image whose layers are read in the order of `order`.
pub fn try_build(layers: &[Vec<Item>], order: &[usize], options: &Options) -> Result<Built> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.erofs");
    let image = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
    let store = Arc::new(ErofsStore::new(image, folder.path(), layers.len()));
    let mut ingested: Vec<Vec<Ingested>> = layers.iter().map(|_| Vec::new()).collect();
    for &index in order {
        let mut layer = store.layer(index as u32)?;
        for Item { entry, parts } in &layers[index] {
            let mut content = None;
            if let Kind::File { size } = entry.kind {
                layer.begin(&entry.metadata, size)?;
                for part in parts {
                    match part {
                        Part::Data(data) => layer.data(data)?,
                        Part::Hole(length) => layer.hole(*length)?,
                    }
                }
                content = Some(layer.end()?);
            }
            ingested[index].push(Ingested { entry: entry.clone(), content });
        }
        layer.finish()?;
    }
    let mut merge = Merge::new(Limits::default());
    for (index, layer) in ingested.into_iter().enumerate() {
        if index == 0 { merge.lowest_layer([Ok(layer)])? } else { merge.upper_layer(vec![Batch::new(layer)])? }
    }
    let (tree, _) = merge.finish();
    let summary = finish(&tree, &store, options)?;
    Ok(Built { tree, store, summary, path, folder })
}
