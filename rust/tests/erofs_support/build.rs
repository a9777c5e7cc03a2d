//! Layers by hand, written as an erofs image.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use ocifast_core::entry::Mtime;
use ocifast_core::error::Result;
use ocifast_core::output::erofs::{Compression, ErofsStore, Options, Summary, finish, write_compressed};
use ocifast_core::tree::Tree;
use tempfile::TempDir;

pub use super::items::{Item, Part, bytes};
use super::items::{dumped, merged};

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
        dumped(&self.tree, &*self.store)
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
    let tree = merged(layers, order, &store)?;
    let summary = finish(&tree, &store, options)?;
    Ok(Built { tree, store, summary, path, folder })
}
