//! The data of files: blocks that follow each other, and an end in a fragment.

use std::sync::{Arc, PoisonError};

use super::image::Image;
use super::metadata::Place;
use super::records::{FileBody, InodeBody, Opened};
use super::superblock::FRAGMENT;
use crate::contents::{Content, Contents, Extent, Extents};
use crate::error::Result;
use crate::read::common::{invalid, wanted};
use crate::read::source::Fields;
use crate::read::unpack::unpack;

/// Marks a block that is not compressed; below are its bytes.
const PLAIN: u32 = 1 << 24;
/// Files and fragments that are kept.
const OPEN: usize = 4;

fn length(block: u32) -> u64 {
    u64::from(block & (PLAIN - 1))
}

impl Image {
    fn opened(&self, position: u64) -> Result<Opened> {
        let InodeBody::File(body) = self.inode(Place::of(position), true)?.body else {
            return Err(invalid("what was a file is none"));
        };
        let mut at = body.start;
        let mut starts = Vec::with_capacity(body.blocks.len());
        for &block in &body.blocks {
            starts.push(at);
            at = at.checked_add(length(block)).ok_or_else(|| invalid("a block beyond all files"))?;
        }
        Ok(Opened { position, body, starts })
    }

    /// The runs of data of a file that has holes.
    pub(super) fn runs(&self, place: Place, file: &FileBody) -> Result<Option<Arc<[Extent]>>> {
        let block = 1 << self.superblock.block_bits;
        // A file of few blocks is read whole all the same.
        if file.size < block {
            return Ok(None);
        }
        let InodeBody::File(file) = self.inode(place, true)?.body else { return Ok(None) };
        if file.blocks.iter().all(|&block| length(block) > 0) {
            return Ok(None);
        }
        let (mut runs, mut left) = (Extents::default(), file.size);
        for &stored in &file.blocks {
            let part = block.min(left);
            if length(stored) > 0 {
                runs.data(part)
            } else {
                runs.hole(part)
            }
            left -= part;
        }
        runs.data(left);
        Ok(runs.take())
    }

    /// A block of data, or what is unpacked of a fragment.
    fn stored(&self, at: u64, block: u32) -> Result<Vec<u8>> {
        let most = 1usize << self.superblock.block_bits;
        if length(block) > most as u64 {
            return Err(invalid(format!("a block of {} bytes", length(block))));
        }
        let stored = self.volume.bytes(at, length(block))?;
        if block & PLAIN == 0 { unpack(self.algorithm, &stored, most) } else { Ok(stored) }
    }

    fn fragment(&self, number: u32) -> Result<Arc<Vec<u8>>> {
        let kept = || self.fragments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = kept().iter().find(|(known, _)| *known == number) {
            return Ok(Arc::clone(known));
        }
        let entry = self.superblock.fragments.entry(&self.metadata, number.into())?;
        debug_assert_eq!(entry.len() as u64, FRAGMENT);
        let fragment = Arc::new(self.stored(entry.u64(0)?, entry.u32(8)?)?);
        let mut kept = kept();
        kept.insert(0, (number, Arc::clone(&fragment)));
        kept.truncate(OPEN);
        Ok(fragment)
    }

    fn fill(&self, opened: &Opened, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        let bits = self.superblock.block_bits;
        let size = opened.body.size;
        while !buffer.is_empty() {
            let index = (offset >> bits) as usize;
            let begin = (index as u64) << bits;
            let within = (offset - begin) as usize;
            let expected = (1 << bits).min(size - begin) as usize;
            let part = buffer.len().min(expected - within);
            let (now, rest) = std::mem::take(&mut buffer).split_at_mut(part);
            match (opened.body.blocks.get(index), opened.body.fragment) {
                (Some(0), _) => now.fill(0),
                (Some(&block), _) => {
                    let plain = self.stored(opened.starts[index], block)?;
                    if plain.len() != expected {
                        let message = format!("a block of a file has {} bytes, not {expected}", plain.len());
                        return Err(invalid(message));
                    }
                    now.copy_from_slice(plain.part(within, part)?);
                }
                (None, Some((number, from))) => {
                    let fragment = self.fragment(number)?;
                    now.copy_from_slice(fragment.part((from as usize).saturating_add(within), part)?);
                }
                (None, None) => return Err(invalid("a file without its blocks")),
            }
            offset += part as u64;
            buffer = rest;
        }
        Ok(())
    }
}

impl Contents for Image {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let count = wanted(content, offset, buffer.len());
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut open = open();
            open.iter().position(|each| each.position == content.position).map(|index| open.remove(index))
        };
        let opened = match known {
            Some(opened) => opened,
            None => self.opened(content.position)?,
        };
        if opened.body.size != content.size {
            return Err(invalid("what was a file is another one"));
        }
        self.fill(&opened, offset, &mut buffer[..count])?;
        let mut open = open();
        open.push(opened);
        if open.len() > OPEN {
            open.remove(0);
        }
        Ok(count)
    }
}
