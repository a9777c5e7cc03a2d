//! An image whose data stand in other files, those of decoded layers: metadata alone, with the layers as devices (Linux,
//! Documentation/filesystems/erofs.rst, "Multiple devices"), or metadata and layers in one file.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

use super::build::finish_layered;
use crate::blocks::length_of;
use crate::error::{Code, Error, Result};
use crate::output::erofs::data::devices::{Device, LayeredFiles, contents, shared};
use crate::output::erofs::format::numbers::BLOCK;
use crate::output::erofs::identity::Identity;
use crate::output::file_range::copy_range;
use crate::output::refuse_unholdable;
use crate::output::request::{Source, WriteRequest, Written};
use crate::spool::SpoolStore;
use crate::tree::Tree;

/// A decoded layer that files of a tree have data in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerInUse {
    /// Which layer.
    pub layer: u32,
    /// Bytes of its data file that are its device: up to the first byte after the data.
    pub length: u64,
    /// Bytes of those blocks of its data that no file of the tree uses.
    pub dead: u64,
}

/// The layers that files of the tree have data in, ascending.
///
/// # Errors
/// `internal` when contents do not wait in the data files of decoded layers.
pub fn layers_in_use(source: Source<'_>) -> Result<Vec<LayerInUse>> {
    let (tree, store) = (source.tree, source.store::<SpoolStore>().ok_or_else(elsewhere)?);
    let layers = live(tree).into_iter().map(|(layer, runs)| {
        let live: u64 = runs.iter().map(|run| run.end - run.start).sum();
        let (_, length) = shared(store, layer)?;
        Ok(LayerInUse { layer, length, dead: length.saturating_sub(BLOCK as u64 + live) })
    });
    layers.collect()
}

/// Writes to empty files the data of layers that the tree still has, each where the layer's file has it; the rest are
/// holes.
///
/// # Errors
/// As [`layers_in_use`]; `io_error`.
pub fn write_private_layers(source: Source<'_>, files: &[(u32, File)]) -> Result<()> {
    let (tree, store) = (source.tree, source.store::<SpoolStore>().ok_or_else(elsewhere)?);
    let live = live(tree);
    for (layer, out) in files {
        let (data, length) = shared(store, *layer)?;
        out.set_len(length).map_err(|error| Error::io("cannot write a layer", &error))?;
        copy_live(live.get(layer).map_or(&[], Vec::as_slice), data, out, 0)?;
    }
    Ok(())
}

/// What is chosen about an image of layers.
#[derive(Clone, Copy, Debug)]
pub struct LayeredOptions<'a> {
    /// All layers of [`layers_in_use`], in the order in which they are given to the kernel.
    pub devices: &'a [Device],
    /// Whether the data of the layers follow the metadata in the same file, which mounts alone.
    pub single: bool,
}

/// Writes the metadata of a tree to an empty file; its contents stay in the data files of decoded layers. The properties
/// give the first block of each device for the case that all are put behind the metadata, in one file or on one disk.
///
/// # Errors
/// As [`super::build::write`]; `internal` for a layer without a device, and for contents that wait elsewhere.
pub fn write(request: WriteRequest<'_, LayeredOptions<'_>>) -> Result<Written> {
    let identity = Identity::of(&request);
    let WriteRequest { source, target, options: LayeredOptions { devices, single }, .. } = request;
    let (tree, image) = (source.tree, target.file()?);
    let store = source.store::<SpoolStore>().ok_or_else(elsewhere)?;
    refuse_unholdable(tree)?;
    let files = LayeredFiles::new(tree, store, devices, single)?;
    let mut written = finish_layered(tree, &files, &image, &identity)?;
    let bases = files.bases();
    if single {
        let live = live(tree);
        for (device, &base) in devices.iter().zip(&bases) {
            let (data, length) = device.file(store)?;
            let base = base * BLOCK as u64;
            let end = base + length;
            written.bytes = Some(end);
            image.set_len(end).map_err(|error| Error::io("cannot write the image", &error))?;
            // Only blocks that the tree uses are copied: the layer's file also holds what upper layers hide.
            for layer in &device.layers {
                copy_live(live.get(layer).map_or(&[], Vec::as_slice), data, &image, base)?;
            }
        }
    }
    written.properties.bases = bases;
    Ok(written)
}

/// Contents do not wait in the files of layers.
fn elsewhere() -> Error {
    Error::new(Code::Internal, "contents wait in another store than in the files of layers")
}

/// Copies runs of a layer's data file to the same places of another, counted from its byte `base`.
fn copy_live(runs: &[Range<u64>], data: &File, out: &File, base: u64) -> Result<()> {
    runs.iter().try_for_each(|run| {
        copy_range(data, run.start, out, base + run.start, run.end - run.start)
            .map_err(|error| Error::io("cannot write the data of a layer", &error))
    })
}

/// By layer: the bytes of its data file that the tree has, ascending, those together that follow each other.
fn live(tree: &Tree) -> BTreeMap<u32, Vec<Range<u64>>> {
    let mut layers: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for content in contents(tree) {
        let run = content.position..content.position + length_of(content);
        layers.entry(content.layer).or_default().push(run);
    }
    for runs in layers.values_mut() {
        runs.sort_unstable_by_key(|run| run.start);
        runs.dedup_by(|next, run| {
            let follows = run.end == next.start;
            if follows {
                run.end = next.end;
            }
            follows
        });
    }
    layers
}
