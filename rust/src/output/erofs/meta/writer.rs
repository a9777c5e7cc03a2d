//! Writes the metadata, in the order of their own blocks, to wherever these are in the image.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::directory;
use super::plan::{InodeData, InodeForm, Plan, chunk_addresses, index_padding};
use crate::entry::directory_type;
use crate::error::{Error, Result};
use crate::output::erofs::data::file_data::DataPlace;
use crate::output::erofs::format::numbers::{BLOCK, INDEX, NULL_ADDRESS, SLOT, SLOTS};
use crate::tree::{InodeId, InodeKind};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// The blocks of the metadata, as their own addresses follow each other.
struct MetadataBlocks<'a> {
    image: &'a File,
    places: &'a [u32],
    buffer: Vec<u8>,
    /// Block of the metadata that `buffer` starts with.
    start: usize,
    failed: Option<Error>,
}

impl MetadataBlocks<'_> {
    /// Goes on at byte `offset`, which is not before what was written; zeros in between.
    fn seek(&mut self, offset: u64) {
        let length = (offset - (self.start * BLOCK) as u64) as usize;
        self.buffer.resize(length, 0);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Writes the whole blocks, as many at a time as follow each other in the image.
    fn flush(&mut self) {
        let count = self.buffer.len() / BLOCK;
        let places = &self.places[self.start..self.start + count];
        let mut at = 0;
        for run in places.chunk_by(|&before, &after| after == before + 1) {
            let bytes = &self.buffer[at * BLOCK..(at + run.len()) * BLOCK];
            if let Err(error) = self.image.write_all_at(bytes, u64::from(run[0]) * BLOCK as u64) {
                self.failed.get_or_insert_with(|| Error::io("cannot write the image", &error));
            }
            at += run.len();
        }
        self.buffer.copy_within(count * BLOCK.., 0);
        self.buffer.truncate(self.buffer.len() - count * BLOCK);
        self.start += count;
    }
}

/// Writes all metadata of `plan` but the superblock. `places` has the block of the image for every block of metadata,
/// `nid_base` the block from which node numbers count. Returns the blocks of the image that end with an inode that has
/// nothing behind it.
///
/// # Errors
/// `io_error`.
pub fn write_metadata(plan: &Plan<'_>, image: &File, places: &[u32], nid_base: u32) -> Result<Vec<u32>> {
    let mut blocks =
        MetadataBlocks { image, places, buffer: Vec::with_capacity(BUFFER + BLOCK), start: 0, failed: None };
    let nid = |id: InodeId| {
        let slot = plan.slot(id).unwrap_or_default();
        let block = places[(slot / SLOTS) as usize] - nid_base;
        let nid = u64::from(block) * u64::from(SLOTS) + u64::from(slot % SLOTS);
        (nid, directory_type(plan.tree().inode(id).kind.type_bits()))
    };
    let mut bare_ends = Vec::new();
    for (slot, what) in in_order(plan) {
        blocks.seek(u64::from(slot) * SLOT as u64);
        let Some(id) = what else {
            plan.shared().0.entries(|entry| blocks.write(entry));
            continue;
        };
        let form = plan.form(id)?;
        if plan.slot(id) == Some(slot) {
            let end = slot as usize * SLOT + form.head;
            if form.record.xattr_count == 0 && end.is_multiple_of(BLOCK) {
                bare_ends.push(places[end / BLOCK - 1]);
            }
            write_inode(plan, id, form, &nid, &mut blocks)?;
        } else {
            write_data(plan, id, &nid, &mut blocks);
        }
        if let Some(error) = blocks.failed.take() {
            return Err(error);
        }
    }
    blocks.seek((places.len() * BLOCK) as u64);
    blocks.flush();
    blocks.failed.map_or(Ok(bare_ends), Err)
}

/// What is to be written, by slots: inodes, data of inodes, and (as `None`) the shared attributes.
fn in_order(plan: &Plan<'_>) -> Vec<(u32, Option<InodeId>)> {
    let mut order = Vec::with_capacity(plan.count() as usize);
    let ids = plan.tree().walk().filter(|step| step.first).map(|step| step.inode);
    for id in ids {
        order.extend(plan.slot(id).map(|slot| (slot, Some(id))));
        order.extend(plan.run(id).map(|run| (run * SLOTS, Some(id))));
    }
    let (shared, run) = plan.shared();
    if shared.size() > 0 {
        order.push((run * SLOTS, None));
    }
    order.sort_unstable();
    order
}

fn write_inode(
    plan: &Plan<'_>,
    id: InodeId,
    form: InodeForm,
    nid: &impl Fn(InodeId) -> (u64, u8),
    blocks: &mut MetadataBlocks<'_>,
) -> Result<()> {
    let inode = plan.tree().inode(id);
    let mut out = Vec::with_capacity(BLOCK);
    let mut record = form.record;
    if let Some(run) = plan.run(id) {
        record.data = blocks.places[run as usize];
    }
    record.write(plan.build_time(), &mut out);
    plan.shared().0.body(&inode.metadata, &mut out, |_, _| {});
    blocks.write(&out);
    match (form.data, &inode.kind) {
        (data, InodeKind::File(content)) => {
            let tail = match (data, plan.files().place(id, content)) {
                (InodeData::Inline(tail), _) => tail,
                (InodeData::Chunks { bits, count }, DataPlace::Sparse { start, content }) => {
                    for address in chunk_addresses(&content, bits, count, start) {
                        blocks.write(&address.to_le_bytes());
                    }
                    0
                }
                (InodeData::Indexes { bits, count }, DataPlace::Device { device, start, content }) => {
                    blocks.write(&[0; INDEX][..index_padding(form.head)]);
                    for address in chunk_addresses(&content, bits, count, start) {
                        let device = if address == NULL_ADDRESS { 0 } else { device };
                        blocks.write(&[0; 2]);
                        blocks.write(&device.to_le_bytes());
                        blocks.write(&address.to_le_bytes());
                    }
                    0
                }
                (InodeData::Clusters(tail), DataPlace::Compressed(clusters)) => {
                    clusters.write(form.head, |bytes| blocks.write(bytes));
                    tail
                }
                _ => 0,
            };
            if tail > 0 {
                out.resize(tail, 0);
                plan.files().read_tail(id, content, &mut out)?;
                blocks.write(&out);
            }
        }
        (InodeData::Inline(_), InodeKind::Directory(children)) => {
            directory::write(plan.names(id, children), nid, |bytes| blocks.write(bytes));
        }
        (InodeData::Inline(_), InodeKind::Symlink(target)) => blocks.write(target),
        _ => {}
    }
    Ok(())
}

/// The blocks that an inode has for itself.
fn write_data(plan: &Plan<'_>, id: InodeId, nid: &impl Fn(InodeId) -> (u64, u8), blocks: &mut MetadataBlocks<'_>) {
    match &plan.tree().inode(id).kind {
        InodeKind::Directory(children) => {
            directory::write(plan.names(id, children), nid, |bytes| blocks.write(bytes));
        }
        InodeKind::Symlink(target) => blocks.write(target),
        _ => {}
    }
}
