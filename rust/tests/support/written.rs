//! Layers written in every form that there is.

use std::path::PathBuf;
use std::sync::Arc;

use ocifast_core::contents::Contents;
use ocifast_core::output::{Loss, Source, StreamCompression, Target, WriteRequest, cpio, erofs, ext4, squashfs, tar};
use ocifast_core::read::Format;
use ocifast_core::spool::SpoolStore;
use ocifast_core::tree::Tree;
use tempfile::TempDir;

use super::items::{Item, merged};

/// A way of writing a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub format: Format,
    /// Compression, and bytes of a block.
    pub how: (&'static str, usize),
}

/// All of them; the last is a plain archive.
pub const FORMS: [Form; 13] = [
    Form { format: Format::Erofs, how: ("none", 4096) },
    Form { format: Format::Erofs, how: ("lz4", 4096) },
    Form { format: Format::Erofs, how: ("lz4", 65_536) },
    Form { format: Format::Erofs, how: ("zstd", 16_384) },
    Form { format: Format::Squashfs, how: ("zstd", 4096) },
    Form { format: Format::Squashfs, how: ("gzip", 131_072) },
    Form { format: Format::Squashfs, how: ("xz", 65_536) },
    Form { format: Format::Squashfs, how: ("lz4", 16_384) },
    Form { format: Format::Squashfs, how: ("none", 4096) },
    Form { format: Format::Ext4, how: ("none", 4096) },
    Form { format: Format::Cpio, how: ("none", 0) },
    Form { format: Format::Tar, how: ("zstd", 0) },
    Form { format: Format::Tar, how: ("none", 0) },
];

/// Compressed archives.
#[allow(dead_code, reason = "not all tests need them")]
pub const PACKED: [Form; 4] = [
    Form { format: Format::Tar, how: ("gzip", 0) },
    Form { format: Format::Tar, how: ("zstd", 0) },
    Form { format: Format::Cpio, how: ("gzip", 0) },
    Form { format: Format::Cpio, how: ("zstd", 0) },
];

/// An output and what it was made of.
pub struct Made {
    pub form: Form,
    pub tree: Tree,
    pub contents: Arc<dyn Contents>,
    pub path: PathBuf,
    pub losses: Vec<Loss>,
    pub folder: TempDir,
}

impl Made {
    /// Whether it is a compressed archive, which has to be unpacked before it is read.
    pub fn is_packed(&self) -> bool {
        matches!(self.form.format, Format::Tar | Format::Cpio) && self.form.how.0 != "none"
    }
}

fn compression(name: &str) -> StreamCompression {
    match name {
        "gzip" => StreamCompression::Gzip { level: 6 },
        "zstd" => StreamCompression::Zstd { level: 3 },
        _ => StreamCompression::None,
    }
}

/// Writes layers; none for layers that cannot be merged.
pub fn write(layers: &[Vec<Item>], form: Form) -> Option<Made> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("output");
    let order: Vec<usize> = (0..layers.len()).collect();
    let (name, block) = form.how;
    let spool = Arc::new(SpoolStore::new(folder.path(), layers.len()));
    let target = || Target::Path(&path);
    let (uuid, created) = ([5; 16], 1_700_000_000);
    let spooled = || merged(layers, &order, &spool).ok();
    // What reads an image is not asked about itself: the tree of the spool is compared with it.
    let (tree, written) = match form.format {
        Format::Erofs if name == "none" => {
            let store = Arc::new(erofs::ErofsStore::create(folder.path(), layers.len()).expect("a store"));
            let tree = merged(layers, &order, &store).ok()?;
            let request = WriteRequest::new(Source::new(&tree, &*store), target(), erofs::Options::default());
            (spooled()?, erofs::write(WriteRequest { uuid, created, ..request }))
        }
        Format::Erofs => {
            let tree = spooled()?;
            let compression = Some(erofs::Compression::parse(name, None, block).expect("known"));
            let options = erofs::Options { compression, whole_blocks: false };
            let request = WriteRequest::new(Source::new(&tree, &*spool), target(), options);
            let written = erofs::write(WriteRequest { uuid, created, ..request });
            (tree, written)
        }
        Format::Squashfs => {
            let compression = squashfs::Compression::parse(name, None, block, true, 1).expect("known");
            let store = Arc::new(squashfs::SquashfsStore::new(&compression, folder.path(), layers.len()).ok()?);
            let tree = merged(layers, &order, &store).ok()?;
            let options = squashfs::Options { compression };
            let request = WriteRequest::new(Source::new(&tree, &*store), target(), options);
            (spooled()?, squashfs::write(request))
        }
        Format::Ext4 => {
            let tree = spooled()?;
            let options = ext4::Options { size: ext4::Size::Free(0), journal: false };
            let request = WriteRequest::new(Source::new(&tree, &*spool), target(), options);
            let written = ext4::write(WriteRequest { uuid, ..request });
            (tree, written)
        }
        Format::Cpio => {
            let tree = spooled()?;
            let options = cpio::Options { compression: compression(name) };
            let written = cpio::write(WriteRequest::new(Source::new(&tree, &*spool), target(), options));
            (tree, written)
        }
        Format::Tar => {
            let tree = spooled()?;
            let options = tar::Options { compression: compression(name), ..tar::Options::default() };
            let written = tar::write(WriteRequest::new(Source::new(&tree, &*spool), target(), options));
            (tree, written)
        }
    };
    let losses = written.expect("an output").losses;
    Some(Made { form, tree, contents: spool, path, losses, folder })
}
