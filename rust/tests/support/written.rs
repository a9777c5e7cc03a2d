//! Layers written in every form that there is.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use ocifast_core::contents::Contents;
use ocifast_core::entry::Mtime;
use ocifast_core::output::{Compression, Compressor, Loss, erofs, ext4, squashfs, write_cpio, write_tar};
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

fn compression(name: &str) -> Compression {
    match name {
        "gzip" => Compression::Gzip { level: 6 },
        "zstd" => Compression::Zstd { level: 3 },
        _ => Compression::None,
    }
}

/// Writes layers; none for layers that cannot be merged.
pub fn write(layers: &[Vec<Item>], form: Form) -> Option<Made> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("output");
    let order: Vec<usize> = (0..layers.len()).collect();
    let (name, block) = form.how;
    let spool = Arc::new(SpoolStore::new(folder.path(), layers.len()));
    let create = || File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    let build_time = Mtime { seconds: 1_700_000_000, nanoseconds: 0 };
    let options = erofs::Options { uuid: [5; 16], build_time, clamp_mtime: None };
    let (tree, contents, losses): (Tree, Arc<dyn Contents>, Vec<Loss>) = match form.format {
        Format::Erofs if name == "none" => {
            let image = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
            let store = Arc::new(erofs::ErofsStore::new(image, folder.path(), layers.len()));
            let tree = merged(layers, &order, &store).ok()?;
            let summary = erofs::finish(&tree, &store, &options).expect("an image");
            // What reads the image is not asked about itself.
            let spooled = merged(layers, &order, &spool).ok()?;
            (spooled, spool, summary.losses)
        }
        Format::Erofs => {
            let tree = merged(layers, &order, &spool).ok()?;
            let compression = erofs::Compression::parse(name, None, block, 1).expect("known");
            let written = erofs::write_compressed(&tree, &*spool, &path, &options, &compression, &mut |_, _| Ok(()));
            (tree, spool, written.expect("an image").losses)
        }
        Format::Squashfs => {
            let compression = squashfs::Compression::parse(name, None, block, true, 1).expect("known");
            let store = Arc::new(squashfs::SquashfsStore::new(&compression, folder.path(), layers.len()).ok()?);
            let tree = merged(layers, &order, &store).ok()?;
            let options = squashfs::Options { created: 0, clamp_mtime: None };
            let summary = squashfs::write(&tree, &store, &path, &options, &mut |_| Ok(())).expect("an image");
            let spooled = merged(layers, &order, &spool).ok()?;
            (spooled, spool, summary.losses)
        }
        Format::Ext4 => {
            let tree = merged(layers, &order, &spool).ok()?;
            let size = ext4::Size::Free(0);
            let options = ext4::Options { uuid: [5; 16], created: 0, size, journal: false, clamp_mtime: None };
            let (_, losses) = ext4::write(&tree, &*spool, &create(), &options).expect("an image");
            (tree, spool, losses)
        }
        Format::Cpio => {
            let tree = merged(layers, &order, &spool).ok()?;
            let out = Compressor::new(create(), compression(name)).expect("a compressor");
            let (out, losses) = write_cpio(&tree, &*spool, out, None).expect("an archive");
            out.finish().expect("written");
            (tree, spool, losses)
        }
        Format::Tar => {
            let tree = merged(layers, &order, &spool).ok()?;
            let out = Compressor::new(create(), compression(name)).expect("a compressor");
            let out = write_tar(&tree, &*spool, out, None).expect("an archive");
            out.finish().expect("written");
            (tree, spool, Vec::new())
        }
    };
    Some(Made { form, tree, contents, path, losses, folder })
}
