//! Where inodes are in the metadata: pieces packed into blocks, counted from the first block of the metadata.

use crate::error::{Code, Error, Result};
use crate::output::erofs::data::block_map::MetadataRun;
use crate::output::erofs::format::numbers::{BLOCK, SLOT, SLOTS};

/// Packs pieces into blocks by best fit: each piece goes into the open block with the smallest free space that is
/// enough, the one opened last where several have it, else into a new block. A piece that fits in one block never
/// straddles two, as inline data must not.
#[derive(Debug)]
pub struct MetadataPacker {
    blocks: u64,
    /// Blocks by the number of their free slots, which are their last.
    open: Vec<Vec<u32>>,
    /// Which of `open` have a block, a bit each.
    some_open: u128,
    runs: Vec<MetadataRun>,
}

impl Default for MetadataPacker {
    fn default() -> Self {
        MetadataPacker { blocks: 0, open: vec![Vec::new(); SLOTS as usize], some_open: 0, runs: Vec::new() }
    }
}

impl MetadataPacker {
    /// Finds a place for `bytes`, as the number of its first slot.
    ///
    /// # Errors
    /// `output_unsupported` when the metadata grow beyond 128 GiB.
    pub fn piece(&mut self, bytes: usize) -> Result<u32> {
        let slots = bytes.div_ceil(SLOT).max(1);
        if slots > SLOTS as usize {
            let run = self.run(bytes.div_ceil(BLOCK) as u64)?;
            let used = slots % SLOTS as usize;
            if used > 0 {
                self.leave_open(run + (slots / SLOTS as usize) as u32, SLOTS as usize - used);
            }
            return Ok(run * SLOTS);
        }
        let enough = self.some_open & u128::MAX.checked_shl(slots as u32).unwrap_or(0);
        if enough == 0 {
            let block = self.new_blocks(1)?;
            self.leave_open(block, SLOTS as usize - slots);
            return Ok(block * SLOTS);
        }
        let free = enough.trailing_zeros() as usize;
        let Some(block) = self.open[free].pop() else {
            unreachable!("an open block is on its list");
        };
        if self.open[free].is_empty() {
            self.some_open &= !(1 << free);
        }
        self.leave_open(block, free - slots);
        Ok(block * SLOTS + SLOTS - free as u32)
    }

    /// Takes `count` blocks that stay together; the first of them.
    ///
    /// # Errors
    /// As [`MetadataPacker::piece`].
    pub fn run(&mut self, count: u64) -> Result<u32> {
        let start = self.new_blocks(count)?;
        if count > 1 {
            self.runs.push(MetadataRun { start, length: count as u32 });
        }
        Ok(start)
    }

    fn new_blocks(&mut self, count: u64) -> Result<u32> {
        let start = self.blocks;
        self.blocks += count;
        if self.blocks > u64::from(u32::MAX / SLOTS) {
            return Err(Error::new(Code::OutputUnsupported, "the metadata of an erofs image cannot exceed 128 GiB"));
        }
        Ok(start as u32)
    }

    fn leave_open(&mut self, block: u32, free: usize) {
        if free > 0 {
            self.open[free].push(block);
            self.some_open |= 1 << free;
        }
    }

    /// Blocks in all.
    pub fn blocks(&self) -> u32 {
        self.blocks as u32
    }

    /// The runs, ascending.
    pub fn runs(&self) -> &[MetadataRun] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_what_is_open_and_never_cross_a_block() -> Result<()> {
        let mut packer = MetadataPacker::default();
        // Bytes, then the block and slot that they get.
        let table = [
            (64, 0, 0),
            (4001, 0, 2), // 126 slots, as many as block 0 still has
            (4001, 1, 0),
            (96, 2, 0), // 3 slots where block 1 has 2
            (33, 1, 126),
            (1, 2, 3),
        ];
        for (bytes, block, slot) in table {
            assert_eq!(packer.piece(bytes)?, block * SLOTS + slot, "{bytes}");
        }
        // More than a block: together, and its rest is open for others.
        assert_eq!(packer.piece(5000)?, 3 * SLOTS);
        assert_eq!(packer.runs(), [MetadataRun { start: 3, length: 2 }]);
        assert_eq!(packer.piece(4096 - 64)?, SLOTS * 5);
        assert_eq!(packer.piece(3100)?, SLOTS * 4 + 29);
        assert_eq!(packer.piece(3100)?, SLOTS * 2 + 4);
        assert_eq!(packer.run(2)?, 6);
        assert_eq!(packer.blocks(), 8);
        Ok(())
    }
}
