//! The image as a whole: space, metadata and superblock around the data that are there already.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::plan::Plan;
use super::writer::write_metadata;
use crate::error::{Error, Result};
use crate::output::erofs::data::block_map::{BlockMap, BlockRange};
use crate::output::erofs::data::codec::Compression;
use crate::output::erofs::data::compress::CompressedFiles;
use crate::output::erofs::data::devices::LayeredFiles;
use crate::output::erofs::data::layer_files::LayerFiles;
use crate::output::erofs::data::store::ErofsStore;
use crate::output::erofs::format::numbers::{BLOCK, SLOTS};
use crate::output::erofs::format::superblock::{Superblock, head_blocks};
use crate::output::erofs::identity::Identity;
use crate::output::file_range::clear_range;
use crate::output::request::{Properties, Source, WriteRequest, Written, create, for_copies};
use crate::output::{move_contents, refuse_unholdable};
use crate::tree::{InodeKind, Tree};

/// What is chosen about an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Of contents, if they are compressed.
    pub compression: Option<Compression>,
    /// Whether the ends of files get blocks of their own instead of following their inodes. For uncompressed images
    /// only.
    pub whole_blocks: bool,
}

/// Writes the image of a tree to a path that does not exist yet.
///
/// Without compression, contents that wait in an [`ErofsStore`] of the same kind are in the image already: metadata are
/// added to it, and it is moved to the path. Contents that wait in another store are copied to one in the request's
/// folder. With compression, they are read from any store; progress is told the bytes of contents that are done, now and
/// then and at the end.
///
/// # Errors
/// `output_unsupported` when the tree is beyond the format's bounds; `io_error`; what the progress returns.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let identity = Identity::of(&request);
    let WriteRequest { source, target, options, folder, threads, progress, .. } = request;
    let path = target.path()?;
    if let Some(compression) = options.compression {
        let mut progress = progress.unwrap_or_else(|| Box::new(|_, _| Ok(())));
        return compress(source, path, &identity, (&compression, threads), &mut *progress);
    }
    if let Some(store) = source.store::<ErofsStore>()
        && !store.is_complete()
        && store.inline_tails() != options.whole_blocks
    {
        source.took(source.content_bytes());
        let written = finish(source.tree, store, &identity)?;
        store.publish(path)?;
        return Ok(written);
    }
    let made = ErofsStore::create(for_copies(folder)?, 1)?;
    let store = Arc::new(if options.whole_blocks { made.of_whole_blocks() } else { made });
    let tree = move_contents(source.tree, &source.metered(), &store, &mut |_| Ok(()))?;
    let written = finish(&tree, &store, &identity)?;
    store.publish(path)?;
    Ok(written)
}

/// Completes the image of `store` with the metadata of `tree`, whose layers must all be finished. Contents can be read
/// from the store before and after.
fn finish(tree: &Tree, store: &ErofsStore, identity: &Identity) -> Result<Written> {
    refuse_unholdable(tree)?;
    let plan = Plan::new(tree, store, identity)?;
    let packer = plan.packer();
    let together: u64 = packer.runs().iter().map(|run| u64::from(run.length)).sum();
    let wanted = if anywhere(&plan) { u64::from(packer.blocks()) - together } else { 0 };
    let (first, end) = store.data_area()?;
    let mut space = BlockMap::new(first, end, live(tree, store))?;
    let waiting = store.waiting();
    let before = if waiting.is_empty() { Vec::new() } else { space.live().to_vec() };
    let moves = store.relocate(space.make_room(wanted), &waiting)?;
    let image = store.image();
    let arrive = || waiting.iter().try_for_each(|layer| layer.arrive(image, &before, moves));
    // What was decoded before its place was known arrives while the metadata are written: these have other blocks.
    std::thread::scope(|scope| {
        let mut arriving = None;
        if !waiting.is_empty() {
            arriving = std::thread::Builder::new().name("arrive".into()).spawn_scoped(scope, arrive).ok();
        }
        complete(plan, image, space, identity, ImageData::Here, || {
            match arriving {
                Some(arriving) => arriving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                // There was no thread to be had.
                None => arrive()?,
            }
            store.arrived();
            Ok(())
        })
    })
}

/// Writes a compressed image.
fn compress(
    source: Source<'_>,
    path: &Path,
    identity: &Identity,
    (compression, threads): (&Compression, usize),
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Written> {
    let tree = source.tree;
    refuse_unholdable(tree)?;
    let image = create(path)?;
    let files = CompressedFiles::write(source, &image, path, (compression, threads), progress)?;
    let plan = Plan::new(tree, &files, identity)?;
    // All that is there is wanted.
    let space = BlockMap::new(files.end(), files.end(), Vec::new())?;
    complete(plan, &image, space, identity, ImageData::Compressed(*compression), || Ok(()))
}

/// Completes the image of one layer: `data` has its contents, which end before byte `end` and all stay. Whether the
/// layer means the same alone, `view` has said; what erofs cannot hold of it are losses.
///
/// # Errors
/// As [`write`].
pub fn finish_layer(view: &Tree, data: &File, end: u64, identity: &Identity) -> Result<Written> {
    refuse_unholdable(view)?;
    let plan = Plan::new(view, &LayerFiles, identity)?;
    let end = end / BLOCK as u64;
    let space = BlockMap::new(end, end, Vec::new())?;
    complete(plan, data, space, identity, ImageData::Here, || Ok(()))
}

/// Writes the image of a tree whose data stand elsewhere to an empty file.
///
/// # Errors
/// As [`write`].
pub fn finish_layered(tree: &Tree, files: &LayeredFiles, image: &File, identity: &Identity) -> Result<Written> {
    let plan = Plan::new(tree, files, identity)?;
    let head = head_blocks(files.table());
    let space = BlockMap::new(head, head, Vec::new())?;
    complete(plan, image, space, identity, ImageData::Elsewhere(files), || Ok(()))
}

/// Where the data of the image are.
enum ImageData<'a> {
    Here,
    Compressed(Compression),
    Elsewhere(&'a LayeredFiles),
}

/// Whether metadata may go into gaps. The root's block must come before all others that have inodes, so it goes into the
/// lowest gap. A root whose attributes take several blocks would need a gap of that length: then all metadata go behind
/// the data.
fn anywhere(plan: &Plan<'_>) -> bool {
    plan.packer().runs().first().is_none_or(|run| run.start > 0)
}

/// Metadata and superblock; in between `arrived` waits for what else is still to come into the image.
fn complete(
    plan: Plan<'_>,
    image: &File,
    mut space: BlockMap,
    identity: &Identity,
    data: ImageData<'_>,
    arrived: impl FnOnce() -> Result<()>,
) -> Result<Written> {
    let packer = plan.packer();
    let places = space.place(packer.blocks(), packer.runs(), anywhere(&plan))?;
    let (devices, blocks) = match &data {
        ImageData::Elsewhere(files) => {
            // The devices follow the metadata, so that the length of these must be known before they are written; so
            // must the block that is added below where it is needed.
            space.extend()?;
            let (devices, blocks) = files.stand_behind(space.end())?;
            (devices, Some(blocks))
        }
        _ => (Vec::new(), None),
    };
    // One block before the root's: no inode has the number 0, which programs take for none.
    let meta_block = places.first().copied().unwrap_or(1) - 1;
    let bare_ends = write_metadata(&plan, image, &places, meta_block)?;
    // fsck.erofs 1.5 looks for attributes behind every inode, and must not find the end of the image there.
    if bare_ends.iter().any(|&block| u64::from(block) + 1 == space.end()) {
        space.extend()?;
    }

    let block = BLOCK as u64;
    let failed = |error: io::Error| Error::io("cannot write the image", &error);
    let mut dead = 0;
    for gap in space.gaps() {
        clear_range(image, u64::from(gap.start) * block, u64::from(gap.length) * block).map_err(failed)?;
        dead += u64::from(gap.length) * block;
    }
    let (shared, shared_run) = plan.shared();
    let superblock = Superblock {
        root_nid: SLOTS as u16,
        inodes: plan.count(),
        build_time: identity.build_time,
        blocks: blocks.unwrap_or(space.end()) as u32,
        meta_block,
        xattr_block: if shared.size() > 0 { places[shared_run as usize] } else { 0 },
        uuid: identity.uuid,
        chunked: plan.chunked(),
        coding: if let ImageData::Compressed(compression) = data { Some(compression.coding()) } else { None },
        devices,
    };
    arrived()?;
    let bytes = space.end() * block;
    image.set_len(bytes).map_err(failed)?;
    image.write_all_at(&superblock.block(), 0).map_err(failed)?;
    let properties = Properties { dead, ..Properties::default() };
    Ok(Written { bytes: Some(bytes), losses: plan.into_losses(), properties })
}

/// The blocks of all contents that the tree still has.
fn live(tree: &Tree, store: &ErofsStore) -> Vec<BlockRange> {
    let mut live = Vec::new();
    for step in tree.walk().filter(|step| step.first) {
        if let InodeKind::File(content) = &tree.inode(step.inode).kind {
            let (start, length) = store.extent(content);
            if length > 0 {
                // Bounded by the data area, which is checked before these are looked at.
                live.push(BlockRange { start: start as u32, length: length as u32 });
            }
        }
    }
    live
}
