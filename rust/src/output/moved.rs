//! Contents moved to another store, for an output that wants them in a store of its own.

use crate::contents::{Content, Contents, Store};
use crate::error::Result;
use crate::output::{CHUNK, copy_range};
use crate::tree::{InodeId, InodeKind, Tree};

/// Copies the contents that a tree still has into `store`, as one layer, in the order in which layers brought them.
/// Returns the tree over the copies.
///
/// # Errors
/// What reading returns, or the store, or `progress`, which is told the bytes of files that are done.
pub fn move_contents(
    tree: &Tree,
    contents: &dyn Contents,
    store: &dyn Store,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Tree> {
    move_contents_of(tree, &|_| true, contents, (store, 0), progress)
}

/// The same for some of the contents, as a layer of this index.
///
/// # Errors
/// As [`move_contents`].
pub fn move_contents_of(
    tree: &Tree,
    which: &dyn Fn(&Content) -> bool,
    contents: &dyn Contents,
    (store, index): (&dyn Store, u32),
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Tree> {
    let mut moved = tree.clone();
    let mut files: Vec<(u32, u64, InodeId)> = Vec::new();
    for step in tree.walk().filter(|step| step.first) {
        if let InodeKind::File(content) = &tree.inode(step.inode).kind
            && which(content)
        {
            files.push((content.layer, content.position, step.inode));
        }
    }
    files.sort_unstable();
    let mut layer = store.layer(index)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    for (_, _, id) in files {
        let inode = tree.inode(id);
        let InodeKind::File(content) = &inode.kind else { continue };
        layer.begin(&inode.metadata, content.size)?;
        let mut at = 0;
        for run in content.runs() {
            if run.offset > at {
                layer.hole(run.offset - at)?;
            }
            at = run.offset + run.length;
            copy_range(contents, content, run.offset..at, &mut buffer, |bytes| {
                progress(done)?;
                done += bytes.len() as u64;
                layer.data(bytes)
            })?;
        }
        if content.size > at {
            layer.hole(content.size - at)?;
        }
        moved.inode_mut(id).kind = InodeKind::File(layer.end()?);
    }
    layer.finish()?;
    Ok(moved)
}
