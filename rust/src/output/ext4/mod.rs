//! ext4, written directly: no mkfs, no mount, nothing staged.
//!
//! The image has one deterministic layout: inode numbers and blocks rise in the order of the walk, directories stand
//! together before all contents, and what is left is free. Nothing but the tree's own names is in it: no `lost+found`,
//! which `e2fsck` makes when it needs one.

mod bitmap;
mod checksum;
mod directory;
mod extent;
mod hash;
mod inode;
mod layout;
mod options;
mod stream;
mod superblock;
mod survey;
mod writer;
mod xattr;

use self::options::Identity;
pub use self::options::{Options, Size};

use self::layout::{BLOCK, Geometry, least_blocks, whole_groups};
use self::superblock::journal_blocks;
use self::survey::Survey;
use self::writer::ImageWriter;
use super::refuse_unholdable;
use super::request::{WriteRequest, Written};
use crate::error::{Code, Error, Result};

/// Bytes of free space for which there is one free inode, as mke2fs chooses.
const BYTES_PER_INODE: u64 = 16 << 10;
/// What Linux keeps back of the free space, so that writing never fails half way (ext4_calculate_resv_clusters): a
/// fiftieth of all blocks, at most this many.
const KEPT_BACK_MAX: u64 = 4096;
/// Blocks that block numbers of 32 bits can count.
const BLOCKS_MAX: u64 = u32::MAX as u64;

/// Writes the tree into an empty file.
///
/// Free space and holes are never written: the file is sparse where its file system allows.
///
/// # Errors
/// `output_unsupported` for what cannot be held even in part (nothing is written then), `io_error`.
pub fn write(request: WriteRequest<'_, Options>) -> Result<Written> {
    let WriteRequest { source, target, options, uuid, created, clamp_mtime, .. } = request;
    let (tree, file) = (source.tree, target.file()?);
    refuse_unholdable(tree)?;
    let identity = Identity { uuid, created, clamp_mtime };
    let survey = Survey::new(tree, &identity)?;
    let (geometry, journal) = plan(&survey, &options)?;
    let bytes = match options.size {
        Size::Free(_) => geometry.blocks * BLOCK as u64,
        Size::Total(bytes) => bytes,
    };
    file.set_len(bytes).map_err(|error| Error::io("cannot set the size of the image", &error))?;
    ImageWriter::new(tree, &source.metered(), &file, &identity, &survey, &geometry)?.write(journal)?;
    Ok(Written { bytes: Some(bytes), losses: survey.losses.into_vec(), ..Written::default() })
}

/// Chooses the geometry and the blocks of the journal.
fn plan(survey: &Survey, options: &Options) -> Result<(Geometry, u64)> {
    let tree_blocks = survey.metadata_blocks + survey.data_blocks;
    let journal = |blocks| if options.journal { journal_blocks(blocks) } else { 0 };
    let too_big = || Error::new(Code::OutputUnsupported, "the ext4 image would be larger than 16 TiB");
    // Where the fixed blocks of a group split the extents of files too short to be counted as splitting.
    let splits = |geometry: &Geometry| 2 * geometry.groups.len() as u64;
    match options.size {
        Size::Free(free) => {
            let free_blocks = free.div_ceil(BLOCK as u64);
            let inodes = u64::from(survey.last_inode) + free / BYTES_PER_INODE;
            let mut blocks = least_blocks(inodes).max(tree_blocks.saturating_add(free_blocks));
            loop {
                blocks = whole_groups(blocks, true);
                if blocks > BLOCKS_MAX || inodes > u64::from(u32::MAX) {
                    return Err(too_big());
                }
                let kept_back = if free == 0 { 0 } else { (blocks / 50).min(KEPT_BACK_MAX) };
                let needed = tree_blocks + free_blocks + kept_back + journal(blocks);
                match Geometry::new(blocks, inodes) {
                    Some(geometry) => match needed + geometry.overhead() + splits(&geometry) {
                        all if all <= blocks => return Ok((geometry, journal(blocks))),
                        all => blocks = all,
                    },
                    None => blocks += blocks / 64 + 16,
                }
            }
        }
        Size::Total(bytes) => {
            let blocks = whole_groups(bytes / BLOCK as u64, false);
            if blocks > BLOCKS_MAX {
                return Err(too_big());
            }
            let needed = tree_blocks + journal(blocks);
            let free = (bytes / BLOCK as u64).saturating_sub(needed) * BLOCK as u64;
            let inodes = u64::from(survey.last_inode) + free / BYTES_PER_INODE;
            let fitting = (blocks <= bytes / BLOCK as u64).then(|| Geometry::new(blocks, inodes)).flatten();
            match fitting {
                Some(geometry) if needed + geometry.overhead() + splits(&geometry) <= blocks => {
                    Ok((geometry, journal(blocks)))
                }
                _ => {
                    let least = Options { size: Size::Free(0), ..*options };
                    let least = plan(survey, &least)?.0.blocks * BLOCK as u64;
                    let message = format!("the tree needs an ext4 image of at least {least} bytes, not {bytes}");
                    Err(Error::new(Code::OutputUnsupported, message))
                }
            }
        }
    }
}
