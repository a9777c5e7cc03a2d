//! Layers by hand, written as an erofs image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ocifast_core::contents::Contents;
use ocifast_core::error::Result;
use ocifast_core::output::erofs::{self, Compression, ErofsStore, write};
use ocifast_core::output::{Source, Target, WriteRequest, Written};
use ocifast_core::tree::Tree;
use tempfile::TempDir;

pub use super::items::{Item, Part, bytes};
use super::items::{dumped, merged};

/// An image and what it was made from.
pub struct Built {
    pub tree: Tree,
    pub store: Arc<ErofsStore>,
    pub written: Written,
    pub path: PathBuf,
    pub folder: TempDir,
}

impl Built {
    pub fn image(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("the image")
    }

    pub fn bytes(&self) -> u64 {
        self.written.bytes.expect("a file")
    }

    /// The canonical text of the tree that the image was made from.
    pub fn dump(&self) -> String {
        dumped(&self.tree, &*self.store)
    }
}

/// What is asked for beside a tree.
#[derive(Clone, Copy)]
pub struct Options {
    pub uuid: [u8; 16],
    pub created: i64,
    pub clamp_mtime: Option<i64>,
}

pub fn options() -> Options {
    let uuid = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    Options { uuid, created: 1_700_000_000, clamp_mtime: None }
}

/// A request for an image.
pub fn request<'a>(
    tree: &'a Tree,
    contents: &'a dyn Contents,
    path: &'a Path,
    options: &Options,
) -> WriteRequest<'a, erofs::Options> {
    let &Options { uuid, created, clamp_mtime } = options;
    let request = WriteRequest::new(Source::new(tree, contents), Target::Path(path), erofs::Options::default());
    WriteRequest { uuid, created, clamp_mtime, ..request }
}

pub fn build(layers: &[Vec<Item>]) -> Built {
    let order: Vec<usize> = (0..layers.len()).collect();
    try_build(layers, &order, &options()).expect("an image")
}

/// An image of the same tree, compressed by so many threads; the path is new.
pub fn compress(built: &Built, compression: Compression, threads: usize) -> (Vec<u8>, PathBuf) {
    let path = built.folder.path().join("compressed.erofs");
    // There may be one of another compression.
    let _ = std::fs::remove_file(&path);
    let options = options();
    let compressed = erofs::Options { compression: Some(compression), whole_blocks: false };
    let written = {
        let request = request(&built.tree, &*built.store, &path, &options);
        write(WriteRequest { options: compressed, threads, ..request }).expect("an image")
    };
    let image = std::fs::read(&path).expect("the image");
    assert_eq!((written.bytes, written.properties.dead), (Some(image.len() as u64), 0));
    assert_eq!(written.losses, built.written.losses);
    (image, path)
}

/// Builds an image whose layers are read in the order of `order`.
pub fn try_build(layers: &[Vec<Item>], order: &[usize], options: &Options) -> Result<Built> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("published.erofs");
    let store = Arc::new(ErofsStore::create(folder.path(), layers.len())?);
    let tree = merged(layers, order, &store)?;
    let written = write(request(&tree, &*store, &path, options))?;
    Ok(Built { tree, store, written, path, folder })
}
