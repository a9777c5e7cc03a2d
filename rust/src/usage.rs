//! Where the bytes of a tree are: by layer, by file and folder, twice, or hidden by later layers.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::contents::{Content, Contents};
use crate::error::Result;
use crate::output::CHUNK;
use crate::same::content_digest;
use crate::tree::{InodeId, InodeKind, Tree};

/// What one layer brought. Bytes are those of data, holes left out, a file with several names once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these files, those that are hidden or replaced.
    pub hidden_files: u64,
    /// Their bytes.
    pub hidden_bytes: u64,
}

/// A file that is large.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Large {
    /// Bytes of data.
    pub bytes: Reverse<u64>,
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// The layer that brought it.
    pub layer: u32,
}

/// A file that is not in the tree any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HiddenFile {
    /// The file.
    pub file: Large,
    /// The layer that hid it.
    pub by: u32,
    /// Whether another took its place; else a whiteout hides it.
    pub replaced: bool,
}

/// Files with the same content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    /// Bytes that all but one of them take.
    pub spare: Reverse<u64>,
    /// The first name of each of the first few, in the order of the walk.
    pub paths: Vec<Vec<u8>>,
    /// How many there are.
    pub count: u64,
    /// Bytes of one.
    pub bytes: u64,
}

/// Where the bytes are. Lists are sorted, the largest first, equal ones by their paths.
#[derive(Debug, Default)]
pub struct Usage {
    /// For each layer.
    pub layers: Vec<LayerUsage>,
    /// The largest files.
    pub files: Vec<Large>,
    /// The largest folders with all that is below them; their layer means nothing.
    pub folders: Vec<Large>,
    /// The largest files that are hidden.
    pub hidden: Vec<HiddenFile>,
    /// The duplicates that take most.
    pub duplicates: Vec<Duplicate>,
    /// Bytes that all duplicates take, one of each left out.
    pub duplicate_bytes: u64,
}

/// Most names that are told of one group of duplicates.
const NAMES: usize = 5;

/// Files by size and bytes of data, in the order of the walk.
type BySize = HashMap<(u64, u64), Vec<(Vec<u8>, InodeId)>>;

/// The smallest few of all that is pushed.
struct Top<T> {
    kept: Vec<T>,
    most: usize,
}

impl<T: Ord> Top<T> {
    fn new(most: usize) -> Self {
        Top { kept: Vec::new(), most }
    }

    fn push(&mut self, item: T) {
        self.kept.push(item);
        if self.kept.len() / 2 > self.most {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept.sort();
        self.kept.truncate(self.most);
    }

    fn sorted(mut self) -> Vec<T> {
        self.cut();
        self.kept
    }
}

/// Bytes of data.
fn data(content: &Content) -> u64 {
    content.runs().map(|run| run.length).sum()
}

/// Looks at all files at and below `path`, those that are hidden as well. Files whose sizes are those of others are
/// read, each once.
///
/// # Arguments
/// `path` goes through no link; `layers` is how many there are; `top` bounds each list.
///
/// # Errors
/// `path_not_found`; what reading the contents returns.
pub fn usage(tree: &Tree, contents: &dyn Contents, path: &[u8], layers: usize, top: usize) -> Result<Usage> {
    let root = tree.lookup(path, false)?;
    let mut usage = Usage { layers: vec![LayerUsage::default(); layers], ..Usage::default() };
    let (mut files, mut folders, mut hidden) = (Top::new(top), Top::new(top), Top::new(top));
    // Folders on the way to where the walk is, with the bytes in each so far.
    let mut way: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut leave = |way: &mut Vec<(Vec<u8>, u64)>| {
        if let Some((path, bytes)) = way.pop()
            && let Some((_, above)) = way.last_mut()
        {
            *above += bytes;
            folders.push(Large { bytes: Reverse(bytes), path, layer: 0 });
        }
    };
    let mut by_size: BySize = BySize::new();
    for step in tree.walk_from(root, path.to_vec()) {
        while way.last().is_some_and(|(folder, _)| !is_below(&step.path, folder)) {
            leave(&mut way);
        }
        match &tree.inode(step.inode).kind {
            InodeKind::Directory(_) => way.push((step.path, 0)),
            InodeKind::File(content) if step.first => {
                let bytes = data(content);
                if let Some(layer) = usage.layers.get_mut(content.layer as usize) {
                    layer.files += 1;
                    layer.bytes += bytes;
                }
                if let Some((_, folder)) = way.last_mut() {
                    *folder += bytes;
                }
                if bytes > 0 {
                    by_size.entry((content.size, bytes)).or_default().push((step.path.clone(), step.inode));
                }
                files.push(Large { bytes: Reverse(bytes), path: step.path, layer: content.layer });
            }
            _ => {}
        }
    }
    while !way.is_empty() {
        leave(&mut way);
    }
    tree.each_gone(|gone| {
        let InodeKind::File(content) = &tree.inode(gone.inode).kind else { return };
        if gone.path != path && !is_below(&gone.path, path) {
            return;
        }
        let bytes = data(content);
        if let Some(layer) = usage.layers.get_mut(content.layer as usize) {
            layer.files += 1;
            layer.bytes += bytes;
            layer.hidden_files += 1;
            layer.hidden_bytes += bytes;
        }
        let file = Large { bytes: Reverse(bytes), path: gone.path, layer: content.layer };
        hidden.push(HiddenFile { file, by: gone.layer, replaced: gone.replaced });
    });
    (usage.files, usage.folders, usage.hidden) = (files.sorted(), folders.sorted(), hidden.sorted());
    duplicates(tree, contents, by_size, top, &mut usage)?;
    Ok(usage)
}

/// Whether a path is below a folder; everything but the root is below the root.
fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() && !path.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn duplicates(tree: &Tree, contents: &dyn Contents, by_size: BySize, top: usize, usage: &mut Usage) -> Result<()> {
    let mut found = Top::new(top);
    let mut buffer = vec![0; CHUNK];
    for ((_, bytes), files) in by_size {
        if files.len() < 2 {
            continue;
        }
        let mut same: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
        for (path, inode) in files {
            if let InodeKind::File(content) = &tree.inode(inode).kind {
                same.entry(content_digest(contents, content, &mut buffer)?).or_default().push(path);
            }
        }
        for mut paths in same.into_values() {
            let count = paths.len() as u64;
            let spare = bytes * (count - 1);
            if spare > 0 {
                usage.duplicate_bytes += spare;
                paths.truncate(NAMES);
                found.push(Duplicate { spare: Reverse(spare), paths, count, bytes });
            }
        }
    }
    usage.duplicates = found.sorted();
    Ok(())
}
