//! The image as a whole: contents, tables and superblock.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::format::{CONTENTS, Fields, METADATA_PLAIN, PADDING, Superblock, TablePlaces, narrow};
use super::fragments::Fragments;
use super::metadata::lookup_table;
use super::options::Options;
use super::placed::{Placed, copy};
use super::store::SquashfsStore;
use super::tree_writer::TreeWriter;
use crate::error::{Error, Result};
use crate::output::request::{WriteRequest, Written, create, for_copies};
use crate::output::{move_contents, refuse_unholdable};
use crate::tree::Tree;

/// Writes the image of a tree to a path that does not exist yet. Contents wait in a [`SquashfsStore`] of the same
/// compression, whose layers are all finished; others are read and compressed in a store in the request's folder.
/// Progress is told the bytes of files, now and then and at the end; it never goes back.
///
/// # Errors
/// `output_unsupported` when the tree is beyond the format's bounds; `io_error`; what the progress returns.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let WriteRequest { source, target, options: Options { compression }, created, clamp_mtime, mut progress, .. } =
        request;
    let (total, mut furthest) = (source.content_bytes(), 0);
    let mut tell = |done: u64| {
        furthest = furthest.max(done);
        progress.as_mut().map_or(Ok(()), |progress| progress(furthest, total))
    };
    let path = target.path()?;
    match source.store::<SquashfsStore>() {
        Some(store) if store.compression().makes_the_same_as(&compression) => {
            assemble(source.tree, store, path, created, clamp_mtime, &mut tell)
        }
        _ => {
            let store = Arc::new(SquashfsStore::new(&compression, for_copies(request.folder)?, 1)?);
            let tree = move_contents(source.tree, source.contents, &store, &mut tell)?;
            assemble(&tree, &store, path, created, clamp_mtime, &mut tell)
        }
    }
}

/// Puts the image together from the blocks of its store.
fn assemble(
    tree: &Tree,
    store: &SquashfsStore,
    path: &Path,
    created: i64,
    clamp_mtime: Option<i64>,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Written> {
    refuse_unholdable(tree)?;
    let more = store.compress_waiting(tree, progress)?;
    let (tree, store) = more.as_ref().map_or((tree, store), |(tree, store)| (tree, store));
    let image = &create(path)?;
    let compression = *store.compression();
    let settings = compression.settings();
    let head = settings
        .as_ref()
        .map_or(Vec::new(), |settings| Fields::default().u16(settings.len() as u16 | METADATA_PLAIN).bytes(settings).0);
    let mut placed = Placed::new(tree, store, CONTENTS)?;
    let copies = placed.take_copies();
    let fragments = std::thread::scope(|scope| {
        let copying = std::thread::Builder::new().name("copy".to_owned());
        let copying = copying.spawn_scoped(scope, || copy(store, &copies, image));
        let copying = copying.map_err(|error| Error::thread(&error))?;
        let fragments = Fragments::write(tree, store, &mut placed, image, progress);
        let copied = copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        fragments.and_then(|fragments| copied.map(|()| fragments))
    })?;

    let inodes = fragments.end();
    let written = TreeWriter::write(tree, store, &placed, clamp_mtime, image, inodes)?;
    let mut tables = written.directories;
    let directories = written.end;
    // Each table begins where the index of the one before ends: Linux compares.
    let end = |tables: &Vec<u8>| directories + tables.len() as u64;
    let count = narrow((written.export.len() / 8) as u64, "the inodes of the image")?;
    let mut index = [0; 3];
    for (index, entries) in index.iter_mut().zip([fragments.table(), &written.export, written.ids.table()]) {
        let (bytes, at) = lookup_table(&compression, entries, end(&tables))?;
        tables.extend_from_slice(&bytes);
        *index = at;
    }
    let (bytes, xattrs) = written.xattrs.finish(&compression, end(&tables))?;
    tables.extend_from_slice(&bytes);

    let [fragment_index, export, ids] = index;
    let superblock = Superblock {
        inodes: count,
        created: created.clamp(0, i64::from(u32::MAX)) as u32,
        block_size: compression.block as u32,
        fragments: narrow((fragments.table().len() / 16) as u64, "the fragments of the image")?,
        compressor: compression.number(),
        options: settings.is_some(),
        plain: compression.is_plain(),
        packs_tails: compression.packs_tails,
        ids: written.ids.count(),
        root: written.root,
        bytes: end(&tables),
        tables: TablePlaces { inodes, directories, fragments: fragment_index, export, ids, xattrs },
    };
    let bytes = superblock.bytes.next_multiple_of(PADDING);
    let failed = |error| Error::io("cannot write the image", &error);
    image.write_all_at(&tables, directories).map_err(failed)?;
    image.set_len(bytes).map_err(failed)?;
    image.write_all_at(&[&superblock.encode()[..], &head].concat(), 0).map_err(failed)?;
    Ok(Written { bytes: Some(bytes), losses: written.losses.into_vec(), ..Written::default() })
}
