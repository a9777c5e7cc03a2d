//! A kept layer's data file becomes an erofs image: its own metadata behind the data, the superblock before them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::build::finish_layer;
use crate::blocks::BLOCK;
use crate::decoded::{ATTRIBUTE, KeptLayer, OverlayView, Reason, Table, TableFacts};
use crate::digest::{Digest, KeptHasher};
use crate::entry::Mtime;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::output::erofs::identity::Identity;

/// What became of a kept layer.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Bytes of its image.
    pub bytes: u64,
    /// See [`layer_digest`].
    pub digest: String,
    /// Why it cannot stand alone, if it cannot.
    pub reason: Option<Reason>,
}

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// Makes the data file an image, and the table one that can be read, without a note.
///
/// # Errors
/// `io_error`; `output_unsupported` when no image can hold the layer; `limit_exceeded`.
pub fn complete_kept(kept: &mut KeptLayer, limits: &Limits) -> Result<Completed> {
    seal(kept, None, b"")?;
    let table = Table::open(kept.table.file()?)?;
    let OverlayView { tree, mut reason } = OverlayView::new(&table, limits)?;
    let data = &kept.data;
    let identity = Identity { uuid: uuid(&kept.diff_id), build_time: Mtime::default(), clamp_mtime: None };
    let written = finish_layer(&tree, &data.file, data.end, &identity)?;
    if let Some(lost) = written.losses.first() {
        reason.get_or_insert(Reason { code: ATTRIBUTE, path: lost.paths.first().cloned().unwrap_or_default() });
    }
    let mut hasher = data.hasher.clone();
    let bytes = written.bytes.unwrap_or_default();
    read(&data.file, data.end, bytes, &mut hasher)?;
    read(&data.file, 0, BLOCK, &mut hasher)?;
    Ok(Completed { bytes, digest: hasher.finish(), reason })
}

/// Completes the table: it is what publication names last.
///
/// # Errors
/// `io_error`.
pub fn seal(kept: &mut KeptLayer, reason: Option<&Reason>, note: &[u8]) -> Result<()> {
    let KeptLayer { table, data, diff_id, layer_bytes } = kept;
    table.seal(&TableFacts { diff_id, layer_bytes: *layer_bytes, data_end: data.end, reason, note })
}

/// The digest by which a layer's image is known again: BLAKE3 of all from its second block on, then of the first. In
/// this order it is computed while the data are written, for the superblock comes last.
///
/// # Errors
/// `io_error`.
pub fn layer_digest(file: &File) -> Result<String> {
    let length = file.metadata().map_err(|error| Error::io("cannot read a kept layer", &error))?.len();
    if length < BLOCK {
        return Err(Error::new(Code::Io, "a kept layer is too short"));
    }
    let mut hasher = KeptHasher::default();
    read(file, BLOCK, length, &mut hasher)?;
    read(file, 0, BLOCK, &mut hasher)?;
    Ok(hasher.finish())
}

fn read(file: &File, mut from: u64, to: u64, hasher: &mut KeptHasher) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    while from < to {
        let part = &mut buffer[..(to - from).min(BUFFER as u64) as usize];
        file.read_exact_at(part, from).map_err(|error| Error::io("cannot read a kept layer", &error))?;
        hasher.update(part);
        from += part.len() as u64;
    }
    Ok(())
}

/// The image's identity: the first half of a digest of its diff ID, marked as a UUID of no standard method (RFC 9562,
/// section 5.8).
fn uuid(diff_id: &Digest) -> [u8; 16] {
    let digest = Digest::of(diff_id.as_str().as_bytes());
    let hex = digest.as_str().rsplit(':').next().unwrap_or_default();
    let mut uuid = std::array::from_fn(|index| {
        hex.get(2 * index..2 * index + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default()
    });
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
