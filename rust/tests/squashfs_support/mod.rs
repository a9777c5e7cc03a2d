//! What the tests of the squashfs output share.
#![allow(dead_code, missing_docs)]

#[path = "../support/back.rs"]
pub mod back;
#[path = "../support/items.rs"]
pub mod items;
pub mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use items::{Item, dumped, merged};
use ocifast_core::contents::{Contents, Covers, Store};
use ocifast_core::error::Result;
use ocifast_core::output::squashfs::{self, Compression, SquashfsStore, write};
use ocifast_core::output::{Source, Target, WriteRequest, Written};
use ocifast_core::tree::Tree;
use tempfile::TempDir;

/// An image and what it was made from.
pub struct Built {
    pub tree: Tree,
    pub store: Arc<SquashfsStore>,
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
    pub created: i64,
    pub clamp_mtime: Option<i64>,
}

/// A request for an image.
pub fn request<'a>(
    tree: &'a Tree,
    contents: &'a dyn Contents,
    path: &'a Path,
    compression: &Compression,
    options: &Options,
) -> WriteRequest<'a, squashfs::Options> {
    let chosen = squashfs::Options { compression: *compression };
    let request = WriteRequest::new(Source::new(tree, contents), Target::Path(path), chosen);
    WriteRequest { created: options.created, clamp_mtime: options.clamp_mtime, ..request }
}

pub const OPTIONS: Options = Options { created: 1_700_000_000, clamp_mtime: None };

/// zstd, in blocks of `block` bytes.
pub fn zstd(block: usize) -> Compression {
    Compression::parse("zstd", None, block, true, 2).expect("a compression")
}

pub fn build(layers: &[Vec<Item>], compression: &Compression) -> Built {
    let order: Vec<usize> = (0..layers.len()).collect();
    try_build(layers, &order, compression, &OPTIONS).expect("an image")
}

/// Builds an image whose layers are read in the order of `order`.
pub fn try_build(layers: &[Vec<Item>], order: &[usize], compression: &Compression, options: &Options) -> Result<Built> {
    build_in(layers, order, compression, options, |_| {})
}

/// Builds an image whose store is told that upper layers hide what `covers` says.
pub fn build_under(covers: &Arc<Covers>, layers: &[Vec<Item>], order: &[usize], compression: &Compression) -> Built {
    build_in(layers, order, compression, &OPTIONS, |store| assert!(store.watch(covers))).expect("an image")
}

fn build_in(
    layers: &[Vec<Item>],
    order: &[usize],
    compression: &Compression,
    options: &Options,
    prepare: impl Fn(&Arc<SquashfsStore>),
) -> Result<Built> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.squashfs");
    let store = Arc::new(SquashfsStore::new(compression, folder.path(), layers.len())?);
    prepare(&store);
    let tree = merged(layers, order, &store)?;
    let written = write(request(&tree, &*store, &path, compression, options))?;
    Ok(Built { tree, store, written, path, folder })
}
