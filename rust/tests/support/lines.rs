//! Layers and trees as lines of text.

use ocifast_core::batch::{Batch, StoredEntry};
use ocifast_core::contents::Content;
use ocifast_core::entry::{Entry, Kind, Metadata};
use ocifast_core::error::Error;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::tree::{InodeKind, Tree};

/// An entry from a line: `path/` a directory, `path -> target` a symbolic link, `path = target` a hard link, `path`
/// alone a file whose content is known by `serial`.
pub fn entry(line: &str, serial: u64) -> StoredEntry {
    let (path, kind) = if let Some((path, target)) = line.split_once(" -> ") {
        (path, Kind::Symlink { target: target.into() })
    } else if let Some((path, target)) = line.split_once(" = ") {
        (path, Kind::HardLink { target: target.into() })
    } else if line.ends_with('/') {
        (line, Kind::Directory)
    } else {
        (line, Kind::File { size: 1 })
    };
    let content =
        matches!(kind, Kind::File { .. }).then(|| Content { layer: 0, position: serial, size: 1, extents: None });
    StoredEntry { entry: Entry { path: path.into(), kind, metadata: Metadata::default(), offset: 0 }, content }
}

/// The tree of layers; those from `added` on are what a user adds.
pub fn merge(layers: &[&[&str]], added: usize, limits: Limits) -> Result<Tree, Error> {
    let mut merge = Merge::new(limits);
    let mut serial = 0;
    for (index, layer) in layers.iter().enumerate() {
        let entries = layer.iter().map(|line| {
            serial += 1;
            entry(line, serial)
        });
        let entries = entries.collect();
        merge.additions(index >= added);
        if index == 0 { merge.lowest_layer([Ok(entries)])? } else { merge.upper_layer(vec![Batch::new(entries)])? }
    }
    Ok(merge.finish().0)
}

/// Names of all but directories; files with the number of the line that brought them.
pub fn names(tree: &Tree) -> Vec<String> {
    let line = |step: ocifast_core::tree::Step| {
        let path = String::from_utf8(step.path).expect("ASCII");
        match &tree.inode(step.inode).kind {
            InodeKind::File(content) => Some(format!("{path} {}", content.position)),
            InodeKind::Symlink(target) => Some(format!("{path} -> {}", target.escape_ascii())),
            _ => None,
        }
    };
    tree.walk().filter_map(line).collect()
}
