//! The image as a whole: space, metadata and superblock around the data that are there already.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::plan::Plan;
use super::writer::write_metadata;
use crate::contents::Contents;
use crate::error::{Error, Result};
use crate::output::erofs::data::block_map::{BlockMap, BlockRange};
use crate::output::erofs::data::codec::Compression;
use crate::output::erofs::data::compress::CompressedFiles;
use crate::output::erofs::data::devices::LayeredFiles;
use crate::output::erofs::data::layer_files::LayerFiles;
use crate::output::erofs::data::store::ErofsStore;
use crate::output::erofs::format::numbers::{BLOCK, SLOTS};
use crate::output::erofs::format::superblock::{Superblock, head_blocks};
use crate::output::erofs::options::Options;
use crate::output::file_range::clear_range;
use crate::output::{Loss, refuse_unholdable};
use crate::tree::{InodeKind, Tree};

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its size.
    pub bytes: u64,
    /// Bytes of the image that nothing uses.
    pub dead: u64,
    /// What it cannot hold.
    pub losses: Vec<Loss>,
}

/// Completes the image of `store` with the metadata of `tree`, whose layers must all be finished. Contents can be read
/// from the store before and after.
///
/// # Errors
/// `output_unsupported` when the tree is beyond the format's bounds; `io_error`.
pub fn finish(tree: &Tree, store: &ErofsStore, options: &Options) -> Result<Summary> {
    refuse_unholdable(tree)?;
    let plan = Plan::new(tree, store, options)?;
    let packer = plan.packer();
    let together: u64 = packer.runs().iter().map(|run| u64::from(run.length)).sum();
    let wanted = if anywhere(&plan) { u64::from(packer.blocks()) - together } else { 0 };
    let (first, end) = store.data_area()?;
    let mut space = BlockMap::new(first, end, live(tree, store))?;
    store.relocate(space.make_room(wanted))?;
    complete(plan, store.image(), space, options, Data::Here)
}

/// Writes an image of `tree` to `path`, which does not exist yet, with contents from any store, compressed.
/// `progress` is told the bytes of contents that are done and all that there are, now and then and at the end.
///
/// # Errors
/// As [`finish`]; whatever `progress` returns, which ends the work.
pub fn write_compressed(
    tree: &Tree,
    contents: &dyn Contents,
    path: &Path,
    options: &Options,
    compression: &Compression,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Summary> {
    refuse_unholdable(tree)?;
    let image = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    let image = image.map_err(|error| Error::io(format_args!("cannot write {}", path.display()), &error))?;
    let files = CompressedFiles::write(tree, contents, &image, path, compression, progress)?;
    let plan = Plan::new(tree, &files, options)?;
    // All that is there is wanted.
    let space = BlockMap::new(files.end(), files.end(), Vec::new())?;
    complete(plan, &image, space, options, Data::Compressed(*compression))
}

/// Completes the image of one layer: `data` has its contents, which end before byte `end` and all stay. Whether the
/// layer means the same alone, `view` has said; what erofs cannot hold of it are losses.
///
/// # Errors
/// As [`finish`].
pub fn finish_layer(view: &Tree, data: &File, end: u64, options: &Options) -> Result<Summary> {
    refuse_unholdable(view)?;
    let plan = Plan::new(view, &LayerFiles, options)?;
    let end = end / BLOCK as u64;
    let space = BlockMap::new(end, end, Vec::new())?;
    complete(plan, data, space, options, Data::Here)
}

/// Writes the image of a tree whose data stand elsewhere to an empty file.
///
/// # Errors
/// As [`finish`].
pub fn finish_layered(tree: &Tree, files: &LayeredFiles, image: &File, options: &Options) -> Result<Summary> {
    let plan = Plan::new(tree, files, options)?;
    let head = head_blocks(files.table());
    let space = BlockMap::new(head, head, Vec::new())?;
    complete(plan, image, space, options, Data::Elsewhere(files))
}

/// Where the data of the image are.
enum Data<'a> {
    Here,
    Compressed(Compression),
    Elsewhere(&'a LayeredFiles),
}

/// Whether metadata may go into gaps. The root's block must be the first of all that have inodes, so it goes into the
/// lowest gap. A root with so many attributes that it is a run of blocks would need a gap for itself: then the metadata
/// stand behind the data.
fn anywhere(plan: &Plan<'_>) -> bool {
    plan.packer().runs().first().is_none_or(|run| run.start > 0)
}

/// Metadata and superblock.
fn complete(plan: Plan<'_>, image: &File, mut space: BlockMap, options: &Options, data: Data<'_>) -> Result<Summary> {
    let packer = plan.packer();
    let places = space.place(packer.blocks(), packer.runs(), anywhere(&plan))?;
    let (devices, blocks) = match &data {
        Data::Elsewhere(files) => {
            // What stands behind the metadata must know their length before they are written, and so must the block
            // that is added below where it is needed.
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
        build_time: options.build_time,
        blocks: blocks.unwrap_or(space.end()) as u32,
        meta_block,
        xattr_block: if shared.size() > 0 { places[shared_run as usize] } else { 0 },
        uuid: options.uuid,
        chunked: plan.chunked(),
        coding: if let Data::Compressed(compression) = data { Some(compression.coding()) } else { None },
        devices,
    };
    let bytes = space.end() * block;
    image.set_len(bytes).map_err(failed)?;
    image.write_all_at(&superblock.block(), 0).map_err(failed)?;
    Ok(Summary { bytes, dead, losses: plan.into_losses() })
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
