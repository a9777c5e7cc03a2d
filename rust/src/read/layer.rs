//! An image as a layer of an image: its names become entries, and overlayfs' whiteouts those of OCI's layers.
//!
//! An erofs layer hides names in the form of overlayfs (kernel documentation, filesystems/overlayfs, "whiteouts and opaque
//! directories"): a character device 0:0 hides one name, an attribute of a directory hides all of its lower names. Other
//! attributes of overlayfs (redirects, files without data) refer to other layers and are refused.

use super::common::{Image, invalid};
use crate::batch::StoredEntry;
use crate::contents::{Content, LayerStore};
use crate::entry::{Entry, Kind, Metadata};
use crate::error::{Code, Error, Result};
use crate::tree::{InodeKind, Step};
use crate::whiteout::PREFIX;

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;
/// Hides all lower names of its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where attributes of overlayfs stand, for root and for others.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// What they may say besides `opaque`: where a file came from, which changes nothing.
const HARMLESS: [&[u8]; 4] = [b"origin", b"impure", b"nlink", b"uuid"];

/// Hands on the entries of an image, parents first, and gives `store` the contents of its files.
///
/// # Errors
/// `entry_refused` for a name that would be a whiteout of its own; `filesystem_invalid` as [`super::read`] gives it, and for
/// what overlayfs keeps elsewhere; what `store` and `take` return.
pub fn entries(
    image: &Image,
    store: &mut dyn LayerStore,
    take: &mut dyn FnMut(StoredEntry) -> Result<()>,
) -> Result<()> {
    let mut first_names = std::collections::HashMap::new();
    let mut buffer = vec![0; CHUNK];
    for (offset, step) in image.tree.walk().enumerate() {
        let inode = image.tree.inode(step.inode);
        let (folder, name) = split(&step);
        let mut path = if step.path.is_empty() { b".".to_vec() } else { step.path.clone() };
        if name.starts_with(PREFIX) {
            let error =
                Error::new(Code::EntryRefused, "a name of an erofs layer that means a whiteout in other layers");
            return Err(error.at_entry(&path, offset as u64));
        }
        let mut metadata = inode.metadata.clone();
        let mut content = None;
        let mut is_opaque = false;
        let kind = match &inode.kind {
            InodeKind::CharDevice { major: 0, minor: 0 } => {
                path = [folder, PREFIX, name].concat();
                metadata = Metadata::default();
                content = Some(empty(store, &metadata)?);
                Kind::File { size: 0 }
            }
            _ if !step.first => {
                let target: &Vec<u8> = first_names.get(&step.inode).ok_or_else(|| invalid("a name without a file"))?;
                Kind::HardLink { target: target.clone() }
            }
            InodeKind::File(file) => {
                is_plain(&metadata).map_err(|error| error.at_entry(&path, offset as u64))?;
                content = Some(copy(image, file, &metadata, store, &mut buffer)?);
                Kind::File { size: file.size }
            }
            InodeKind::Directory(_) => {
                is_opaque = is_plain(&metadata).map_err(|error| error.at_entry(&path, offset as u64))?;
                Kind::Directory
            }
            InodeKind::Symlink(target) => Kind::Symlink { target: target.to_vec() },
            &InodeKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            &InodeKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            InodeKind::Fifo => Kind::Fifo,
        };
        if inode.nlink > 1 && step.first {
            first_names.insert(step.inode, step.path.clone());
        }
        take(StoredEntry { entry: Entry { path, kind, metadata, offset: offset as u64 }, content })?;
        if is_opaque {
            let parent: &[u8] = if step.path.is_empty() { b"" } else { b"/" };
            let (path, metadata) = ([&step.path, parent, OPAQUE].concat(), Metadata::default());
            let content = Some(empty(store, &metadata)?);
            let kind = Kind::File { size: 0 };
            take(StoredEntry { entry: Entry { path, kind, metadata, offset: offset as u64 }, content })?;
        }
    }
    store.finish()
}

/// The path of the directory with its slash, and the name.
fn split(step: &Step) -> (&[u8], &[u8]) {
    let slash = step.path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    step.path.split_at(slash)
}

/// Whether a directory hides what is below; refuses what only overlayfs can resolve.
fn is_plain(metadata: &Metadata) -> Result<bool> {
    let mut opaque = false;
    for (name, value) in metadata.xattrs.iter().flat_map(|set| set.iter()) {
        let Some(said) = OVERLAY.iter().find_map(|prefix| name.strip_prefix(*prefix)) else { continue };
        match (said, &value[..]) {
            (b"opaque", b"y") => opaque = true,
            _ if HARMLESS.contains(&said) => {}
            _ => {
                let message = format!("it needs {} of overlayfs, which is not known here", said.escape_ascii());
                return Err(invalid(message));
            }
        }
    }
    Ok(opaque)
}

fn empty(store: &mut dyn LayerStore, metadata: &Metadata) -> Result<Content> {
    store.begin(metadata, 0)?;
    store.end()
}

fn copy(
    image: &Image,
    file: &Content,
    metadata: &Metadata,
    store: &mut dyn LayerStore,
    buffer: &mut [u8],
) -> Result<Content> {
    store.begin(metadata, file.size)?;
    let mut at = 0;
    for run in file.runs() {
        if run.offset > at {
            store.hole(run.offset - at)?;
        }
        let end = run.offset + run.length;
        at = run.offset;
        while at < end {
            let wanted = (end - at).min(buffer.len() as u64) as usize;
            let read = image.contents.read_at(file, at, &mut buffer[..wanted])?;
            if read == 0 {
                return Err(invalid("a file ends before its size"));
            }
            store.data(&buffer[..read])?;
            at += read as u64;
        }
    }
    if file.size > at {
        store.hole(file.size - at)?;
    }
    store.end()
}
