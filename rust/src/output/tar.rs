//! A tree as a tar stream: pax where ustar is too small, every link after its target, nothing of the host.

use std::collections::HashMap;
use std::io::Write;

use super::{CHUNK, clamped, copy_content, refuse_unholdable};
use crate::contents::Contents;
use crate::entry::Metadata;
use crate::error::Result;
use crate::tar::{Member, MemberKind, Writer};
use crate::tree::{InodeId, InodeKind, Tree};

/// Writes the tree to `out` and gives `out` back. The archive ends only when all of it was written: a reader of a
/// stream that broke off sees that it did.
///
/// The first member is `./`, the root's own metadata. The second name of an inode, in the order of the walk, and all
/// later ones are hard links to the first.
///
/// # Errors
/// What reading the contents or writing returns.
pub fn write_tar<W: Write>(tree: &Tree, contents: &dyn Contents, out: W, clamp: Option<i64>) -> Result<W> {
    write_fitted(tree, contents, Writer::new(out), |_, metadata| metadata.mtime = clamped(metadata.mtime, clamp))
}

/// The same with metadata as `fit` leaves them; it is called once for each inode, with its first path.
pub(super) fn write_fitted<W: Write>(
    tree: &Tree,
    contents: &dyn Contents,
    writer: Writer<W>,
    mut fit: impl FnMut(&[u8], &mut Metadata),
) -> Result<W> {
    refuse_unholdable(tree)?;
    let mut writer = writer;
    let mut first_names: HashMap<InodeId, Vec<u8>> = HashMap::default();
    let mut buffer = vec![0; CHUNK];
    for step in tree.walk() {
        let inode = tree.inode(step.inode);
        let mut metadata = inode.metadata.clone();
        let mut path = step.path;
        let linked = if step.first { None } else { first_names.get(&step.inode) };
        if linked.is_none() {
            fit(&path, &mut metadata);
        }
        let kind = match (&inode.kind, linked) {
            (_, Some(first)) => MemberKind::HardLink(first),
            (InodeKind::File(content), None) => MemberKind::File { size: content.size },
            (InodeKind::Directory(_), None) => {
                path.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
                MemberKind::Directory
            }
            (InodeKind::Symlink(target), None) => MemberKind::Symlink(target),
            (&InodeKind::CharDevice { major, minor }, None) => MemberKind::CharDevice { major, minor },
            (&InodeKind::BlockDevice { major, minor }, None) => MemberKind::BlockDevice { major, minor },
            (InodeKind::Fifo, None) => MemberKind::Fifo,
        };
        writer.append(&Member { path: &path, metadata: &metadata, kind })?;
        if let (InodeKind::File(content), None) = (&inode.kind, linked) {
            copy_content(contents, content, &mut buffer, |bytes| writer.write_data(bytes))?;
        }
        if inode.nlink > 1 && step.first {
            first_names.insert(step.inode, path);
        }
    }
    writer.finish()
}
