//! The devices of an image whose data are in the files of decoded layers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::OnceLock;

use super::file_data::{DataPlace, FileData, whole_blocks};
use crate::blocks::length_of;
use crate::contents::Content;
use crate::error::{Code, Error, Result};
use crate::output::erofs::format::numbers::BLOCK;
use crate::output::erofs::format::superblock::{DeviceSlot, TAG};
use crate::spool::SpoolStore;
use crate::tree::{InodeId, InodeKind, Tree};

/// One device: a layer's data file, and what it is called.
#[derive(Clone, Debug)]
pub struct Device {
    /// Which layers' data it has; they are the same layer.
    pub layers: Vec<u32>,
    /// In the table of devices: at most 64 bytes, which say nothing to a kernel that is given the devices.
    pub tag: String,
}

impl Device {
    /// See [`shared`].
    pub fn file<'s>(&self, store: &'s SpoolStore) -> Result<(&'s File, u64)> {
        shared(store, self.layers.first().copied().unwrap_or(u32::MAX))
    }
}

/// The contents that have data.
pub fn contents(tree: &Tree) -> impl Iterator<Item = &Content> {
    tree.walk().filter(|step| step.first).filter_map(|step| match &tree.inode(step.inode).kind {
        InodeKind::File(content) if length_of(content) > 0 => Some(content),
        _ => None,
    })
}

/// The data file of a layer, and the first byte after its data.
///
/// # Errors
/// `internal` when its contents do not wait in one.
pub fn shared(store: &SpoolStore, layer: u32) -> Result<(&File, u64)> {
    store.shared_file(layer).ok_or_else(|| Error::new(Code::Internal, format!("layer {layer} has no file of its own")))
}

/// Where the layers are.
pub struct LayeredFiles {
    /// By layer: which device it is, counted from 0.
    numbers: BTreeMap<u32, usize>,
    /// By device: its blocks, and what it is called.
    devices: Vec<(u64, String)>,
    single: bool,
    /// By device: where it begins behind the metadata, once these have their length.
    bases: OnceLock<Vec<u64>>,
}

impl LayeredFiles {
    /// The devices of a tree.
    ///
    /// # Errors
    /// `internal` for a layer without a device, or without a file.
    pub fn new(tree: &Tree, store: &SpoolStore, devices: &[Device], single: bool) -> Result<Self> {
        let numbered = devices.iter().enumerate();
        let numbers: BTreeMap<u32, usize> =
            numbered.flat_map(|(number, device)| device.layers.iter().map(move |&layer| (layer, number))).collect();
        if let Some(missing) = contents(tree).find(|content| !numbers.contains_key(&content.layer)) {
            return Err(Error::new(Code::Internal, format!("layer {} has no device", missing.layer)));
        }
        let devices = devices.iter().map(|device| {
            let (_, length) = device.file(store)?;
            Ok((length / BLOCK as u64, device.tag.clone()))
        });
        Ok(LayeredFiles { numbers, devices: devices.collect::<Result<_>>()?, single, bases: OnceLock::new() })
    }

    /// Where each device begins behind the metadata, in blocks, once these have their length.
    pub fn bases(&self) -> Vec<u64> {
        self.bases.get().cloned().unwrap_or_default()
    }

    /// Bytes of the table of devices.
    pub fn table(&self) -> usize {
        if self.single { 0 } else { self.devices.len() * DeviceSlot::LENGTH }
    }

    /// Learns how many blocks the metadata take. Returns the table of devices, and the blocks of the whole image.
    ///
    /// # Errors
    /// `output_unsupported` for more than 16 TiB in all.
    pub fn stand_behind(&self, blocks: u64) -> Result<(Vec<DeviceSlot>, u64)> {
        let mut end = blocks;
        let mut bases = Vec::new();
        let mut slots = Vec::new();
        for (blocks, tag) in &self.devices {
            bases.push(end);
            let mut name = [0; TAG];
            let length = tag.len().min(TAG);
            name[..length].copy_from_slice(&tag.as_bytes()[..length]);
            slots.push(DeviceSlot { tag: name, blocks: *blocks as u32, mapped: end as u32 });
            end += blocks;
            if end >= u64::from(u32::MAX) {
                let message = "an erofs image cannot be larger than 16 TiB, its layers included";
                return Err(Error::new(Code::OutputUnsupported, message));
            }
        }
        // Only the first caller's count: there is but one.
        let _ = self.bases.set(bases);
        Ok(if self.single { (Vec::new(), end) } else { (slots, blocks) })
    }
}

impl FileData for LayeredFiles {
    fn place<'a>(&'a self, _: InodeId, content: &'a Content) -> DataPlace<'a> {
        if length_of(content) == 0 {
            return match whole_blocks(content) {
                Some(content) => DataPlace::Sparse { start: 0, content: Cow::Owned(content) },
                None => DataPlace::Flat { start: 0, tail: 0 },
            };
        }
        let block = (content.position / BLOCK as u64) as u32;
        let number = self.numbers.get(&content.layer).copied().unwrap_or_default();
        let sparse = whole_blocks(content);
        if self.single {
            // Before the metadata have a length it does not matter where a file begins.
            let start = self.bases.get().map_or(0, |bases| bases[number] as u32) + block;
            return match sparse {
                Some(content) => DataPlace::Sparse { start, content: Cow::Owned(content) },
                None => DataPlace::Flat { start, tail: 0 },
            };
        }
        let content = match (sparse, &content.extents) {
            (Some(sparse), _) => Cow::Owned(sparse),
            (None, None) => Cow::Borrowed(content),
            (None, Some(_)) => Cow::Owned(Content { extents: None, ..content.clone() }),
        };
        DataPlace::Device { device: number as u16 + 1, start: block, content }
    }

    fn read_tail(&self, _: InodeId, _: &Content, _: &mut [u8]) -> Result<()> {
        unreachable!("whole blocks have no tails")
    }
}
