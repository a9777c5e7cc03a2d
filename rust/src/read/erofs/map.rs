//! The data of an inode: which bytes of it stand where, and reading them.

use std::sync::Arc;

use super::image::Image;
use super::records::{Inode, Layout, LogicalExtent, Map, Opened, Packing};
use crate::contents;
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::{Fields, Volume};
use crate::read::unpack::unpack;

/// Bits of the format of chunks: their size, and entries that name a device.
const CHUNK_BITS: u32 = 31;
const CHUNK_INDEXES: u32 = 32;
/// The address of a chunk that is a hole.
const HOLE: u32 = u32::MAX;

impl Image {
    /// Finds the data of an inode.
    pub(super) fn opened(&self, nid: u64) -> Result<Opened> {
        let inode = self.inode(nid)?;
        let map = self.map(&inode)?;
        Ok(Opened { inode, map })
    }

    fn map(&self, inode: &Inode) -> Result<Map> {
        let block = self.superblock.block();
        Ok(match inode.layout {
            Layout::Plain => Map::Flat { start: u64::from(inode.data) * block, whole: inode.size, tail: 0 },
            Layout::Inline => {
                let whole = inode.size / block * block;
                if inode.behind % block + (inode.size - whole) > block {
                    return Err(invalid(format!("the tail of inode {} crosses a block", inode.nid)));
                }
                Map::Flat { start: u64::from(inode.data) * block, whole, tail: inode.behind }
            }
            Layout::Chunked => self.chunks(inode)?,
            Layout::CompressedFull | Layout::CompressedCompact => {
                Map::Extents { extents: self.extents(inode)?, last: None }
            }
        })
    }

    fn chunks(&self, inode: &Inode) -> Result<Map> {
        let (format, indexes) = (inode.data & 0xffff, inode.data & CHUNK_INDEXES != 0);
        if format & !(CHUNK_BITS | CHUNK_INDEXES) != 0 {
            return Err(invalid(format!("inode {} has the unknown format {format:#x} of chunks", inode.nid)));
        }
        let bits = self.superblock.block_bits + (format & CHUNK_BITS);
        let unit = if indexes { 8 } else { 4 };
        let count = inode.size.div_ceil(1 << bits);
        let start = inode.behind.next_multiple_of(unit);
        if count > self.primary().size() {
            return Err(invalid(format!("inode {} has more chunks than the image has bytes", inode.nid)));
        }
        let table = self.primary().bytes(start, count * unit)?;
        let place = |entry: &[u8]| {
            let (device, block) = if indexes { (entry.u16(2)?, entry.u32(4)?) } else { (0, entry.u32(0)?) };
            Ok((block != HOLE).then_some((device, u64::from(block) << self.superblock.block_bits)))
        };
        let places = table.chunks(unit as usize).map(place).collect::<Result<Vec<_>>>()?;
        Ok(Map::Chunks { bits, places })
    }

    /// The runs of data of a file that has holes; none for one that has not.
    pub(super) fn runs(&self, opened: &Opened) -> Option<Arc<[contents::Extent]>> {
        let Map::Chunks { bits, places } = &opened.map else { return None };
        if places.iter().all(Option::is_some) {
            return None;
        }
        let mut runs = contents::Extents::default();
        for (index, place) in places.iter().enumerate() {
            let length = (1 << bits).min(opened.inode.size - ((index as u64) << bits));
            if place.is_some() { runs.data(length) } else { runs.hole(length) }
        }
        runs.take()
    }

    /// Where an address of blocks leads: to the image itself or to a device.
    fn device(&self, device: u16, address: u64) -> Result<(&Volume, u64)> {
        let missing = |number| invalid(format!("its data are on device {number}, which was not given"));
        let devices = &self.superblock.devices;
        if device > 0 {
            let index = usize::from(device) - 1;
            let known = devices.get(index).ok_or_else(|| invalid(format!("there is no device {device}")))?;
            return match self.volumes.get(index + 1) {
                Some(volume) => Ok((volume, address)),
                // All in one file, one behind the other.
                None if known.mapped > 0 => {
                    Ok((self.primary(), address + (known.mapped << self.superblock.block_bits)))
                }
                None => Err(missing(index + 1)),
            };
        }
        for (index, known) in devices.iter().enumerate().filter(|(_, known)| known.mapped > 0) {
            let start = known.mapped << self.superblock.block_bits;
            let length = known.blocks << self.superblock.block_bits;
            if (start..start.saturating_add(length)).contains(&address)
                && let Some(volume) = self.volumes.get(index + 1)
            {
                return Ok((volume, address - start));
            }
        }
        Ok((self.primary(), address))
    }

    /// Fills a buffer with the bytes from `offset` on, all of which the inode has.
    pub(super) fn fill(&self, opened: &Opened, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.fill_keeping(opened, &mut None, offset, buffer)
    }

    /// The same; keeps what was unpacked last.
    pub(super) fn read(&self, opened: &mut Opened, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut kept = match &mut opened.map {
            Map::Extents { last, .. } => last.take(),
            _ => None,
        };
        self.fill_keeping(opened, &mut kept, offset, buffer)?;
        if let Map::Extents { last, .. } = &mut opened.map {
            *last = kept;
        }
        Ok(())
    }

    fn fill_keeping(
        &self,
        opened: &Opened,
        kept: &mut Option<(usize, Arc<Vec<u8>>)>,
        mut offset: u64,
        mut buffer: &mut [u8],
    ) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > opened.inode.size) {
            return Err(invalid(format!("inode {} is shorter than what is read of it", opened.inode.nid)));
        }
        while !buffer.is_empty() {
            let left = buffer.len() as u64;
            let done = match &opened.map {
                Map::Flat { start, whole, .. } if offset < *whole => {
                    let length = left.min(whole - offset);
                    let (volume, at) = self.device(0, start + offset)?;
                    volume.fill(at, &mut buffer[..length as usize])?;
                    length
                }
                Map::Flat { whole, tail, .. } => {
                    self.primary().fill(tail + (offset - whole), buffer)?;
                    left
                }
                Map::Chunks { bits, places } => {
                    let within = offset & ((1 << bits) - 1);
                    let length = left.min((1 << bits) - within);
                    let part = &mut buffer[..length as usize];
                    match places.get((offset >> bits) as usize).copied().flatten() {
                        None => part.fill(0),
                        Some((device, address)) => {
                            let (volume, at) = self.device(device, address.saturating_add(within))?;
                            volume.fill(at, part)?;
                        }
                    }
                    length
                }
                Map::Extents { extents, .. } => {
                    let index = extents.partition_point(|extent| extent.logical <= offset).saturating_sub(1);
                    let extent = extents.get(index).ok_or_else(|| invalid("a compressed file has no extents"))?;
                    let end = extents.get(index + 1).map_or(opened.inode.size, |next| next.logical);
                    let length = left.min(end - offset);
                    let part = &mut buffer[..length as usize];
                    let within = offset - extent.logical;
                    if let Packing::Fragment(start) = extent.packing {
                        self.fragment(&opened.inode, start.saturating_add(within), part)?;
                    } else {
                        if kept.as_ref().is_none_or(|(known, _)| *known != index) {
                            let plain = self.unpacked(extent, end - extent.logical)?;
                            *kept = Some((index, Arc::new(plain)));
                        }
                        let plain = kept.as_ref().map(|(_, plain)| &plain[..]).unwrap_or_default();
                        part.copy_from_slice(plain.part(within as usize, part.len())?);
                    }
                    length
                }
            };
            offset += done;
            buffer = &mut buffer[done as usize..];
        }
        Ok(())
    }

    /// Reads of the packed inode, in which fragments stand.
    fn fragment(&self, inode: &Inode, at: u64, buffer: &mut [u8]) -> Result<()> {
        let nid = self.superblock.packed.ok_or_else(|| invalid("a fragment, and no inode that holds fragments"))?;
        if nid == inode.nid {
            return Err(invalid("the inode that holds fragments has fragments itself"));
        }
        let mut taken = self.packed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let packed = match &mut taken {
            Some(known) => known,
            none => none.insert(self.opened(nid)?),
        };
        if let Map::Extents { extents, .. } = &packed.map
            && extents.iter().any(|extent| matches!(extent.packing, Packing::Fragment(_)))
        {
            return Err(invalid("the inode that holds fragments has fragments itself"));
        }
        self.read(packed, at, buffer)?;
        *self.packed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = taken;
        Ok(())
    }

    /// The `length` bytes of an extent.
    fn unpacked(&self, extent: &LogicalExtent, length: u64) -> Result<Vec<u8>> {
        let (at, size) = extent.place;
        let (volume, at) = if extent.in_blocks { self.device(0, at)? } else { (self.primary(), at) };
        let stored = volume.bytes(at, size)?;
        let wrong = || invalid(format!("an extent at byte {at} does not hold its {length} bytes"));
        let plain = match extent.packing {
            Packing::Plain { turned } => {
                if length > size || turned > size {
                    return Err(wrong());
                }
                let mut plain = stored;
                plain.rotate_left(turned as usize);
                plain.truncate(length as usize);
                plain
            }
            Packing::Compressed(algorithm) => {
                let block = (self.superblock.block() as usize).min(stored.len());
                let zeros = stored[..block].iter().take_while(|&&byte| byte == 0).count();
                let from = if self.superblock.padded { zeros } else { 0 };
                unpack(algorithm, &stored[from..], length as usize)?
            }
            Packing::Fragment(_) => return Err(wrong()),
        };
        if plain.len() as u64 != length {
            return Err(wrong());
        }
        Ok(plain)
    }
}
