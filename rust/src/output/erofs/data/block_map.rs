//! The blocks of the image: which hold live contents, which are dead, and where the metadata go.
//!
//! Contents that a later layer replaced or removed leave gaps among the data. Blocks of metadata fill them first, which
//! costs nothing: they have to be written somewhere. When more is dead than metadata can fill, contents from the end of
//! the image move into the gaps that fit them best; and when even that leaves more than a hundredth of the image dead
//! (many small gaps below one large file), all contents slide down. What remains is cleared, so that nothing that was
//! deleted can be read from the image.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Code, Error, Result};

/// Blocks of the metadata that must stay together in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRun {
    /// First block.
    pub start: u32,
    /// Number of blocks.
    pub length: u32,
}

/// Blocks one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRange {
    /// First block.
    pub start: u32,
    /// Number of blocks, never 0.
    pub length: u32,
}

impl BlockRange {
    fn end(self) -> u32 {
        self.start + self.length
    }
}

/// Blocks that change their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// First block before.
    pub from: u32,
    /// First block after.
    pub to: u32,
    /// Number of blocks.
    pub length: u32,
}

/// Free extents below the end of the data.
#[derive(Debug, Default)]
struct Gaps {
    by_start: BTreeMap<u32, u32>,
    by_length: BTreeSet<(u32, u32)>,
    total: u64,
}

impl Gaps {
    fn add(&mut self, gap: BlockRange) {
        if gap.length > 0 {
            self.by_start.insert(gap.start, gap.length);
            self.by_length.insert((gap.length, gap.start));
            self.total += u64::from(gap.length);
        }
    }

    fn remove(&mut self, gap: BlockRange) {
        self.by_start.remove(&gap.start);
        self.by_length.remove(&(gap.length, gap.start));
        self.total -= u64::from(gap.length);
    }

    /// Takes `length` blocks from the front of the smallest gap that has as many, the lowest of these.
    fn take_fitting(&mut self, length: u32) -> Option<u32> {
        let &(found, start) = self.by_length.range((length, 0)..).next()?;
        self.remove(BlockRange { start, length: found });
        self.add(BlockRange { start: start + length, length: found - length });
        Some(start)
    }

    /// Takes at most `length` blocks from the lowest gap.
    fn take_lowest(&mut self, length: u32) -> Option<BlockRange> {
        let (&start, &found) = self.by_start.first_key_value()?;
        let taken = length.min(found);
        self.remove(BlockRange { start, length: found });
        self.add(BlockRange { start: start + taken, length: found - taken });
        Some(BlockRange { start, length: taken })
    }

    /// The data end at `end` now: no gap lies there or later.
    fn cut(&mut self, end: u32) {
        while let Some((&start, &length)) = self.by_start.last_key_value()
            && start >= end
        {
            self.remove(BlockRange { start, length });
        }
    }
}

/// The blocks of one image.
#[derive(Debug)]
pub struct BlockMap {
    first: u32,
    live: Vec<BlockRange>,
    gaps: Gaps,
    /// First block after all that is placed.
    end: u64,
}

impl BlockMap {
    /// The data area from block `first` to before `end`, of which only `live` is still wanted.
    ///
    /// # Errors
    /// `output_unsupported` for an image of more than 2^32 blocks.
    pub fn new(first: u64, end: u64, mut live: Vec<BlockRange>) -> Result<Self> {
        let first = narrow(first)?;
        narrow(end)?;
        live.sort_unstable();
        live.dedup();
        let mut gaps = Gaps::default();
        let mut at = first;
        for extent in &live {
            gaps.add(BlockRange { start: at, length: extent.start - at });
            at = extent.end();
        }
        Ok(BlockMap { first, live, gaps, end: u64::from(at) })
    }

    /// What is wanted, as it lies in the image before anything moves: by first blocks.
    pub fn live(&self) -> &[BlockRange] {
        &self.live
    }

    /// Decides which contents move so that less than a hundredth of the image will be dead, when `wanted` single blocks
    /// can go anywhere. The moves must be made in their order.
    pub fn make_room(&mut self, wanted: u64) -> Vec<Move> {
        let live: u64 = self.live.iter().map(|extent| u64::from(extent.length)).sum();
        let tolerable = wanted + (live + wanted) / 100;
        if self.gaps.total <= tolerable {
            return Vec::new();
        }
        let kept = (self.live.clone(), self.end);
        // Where contents have landed, with their length and where they come from.
        let mut landed: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        while self.gaps.total > wanted {
            let highest = landed.last_key_value().map(|(&start, &(length, from))| (BlockRange { start, length }, from));
            let resting = self.live.last().map(|&extent| (extent, extent.start));
            let Some((last, from)) = highest.max(resting) else { break };
            let Some(to) = self.gaps.take_fitting(last.length) else { break };
            if landed.remove(&last.start).is_none() {
                self.live.pop();
            }
            landed.insert(to, (last.length, from));
            let highest = landed.last_key_value().map_or(0, |(&start, &(length, _))| start + length);
            let end = self.live.last().map_or(highest, |extent| extent.end().max(highest));
            self.gaps.cut(end);
            self.end = u64::from(end);
        }
        if self.gaps.total <= tolerable {
            return landed.into_iter().map(|(to, (length, from))| Move { from, to, length }).collect();
        }
        (self.live, self.end) = kept;
        self.slide()
    }

    /// All live contents, one after the other.
    fn slide(&mut self) -> Vec<Move> {
        let (mut at, mut moves) = (self.first, Vec::new());
        for extent in &mut self.live {
            if extent.start != at {
                moves.push(Move { from: extent.start, to: at, length: extent.length });
                extent.start = at;
            }
            at += extent.length;
        }
        self.gaps = Gaps::default();
        self.end = u64::from(at);
        moves
    }

    /// Finds places for the blocks of the metadata: the block of the image for each of theirs. `runs` must
    /// stay together and are ascending. All other blocks go into gaps as well if `anywhere`, else behind the data.
    ///
    /// # Errors
    /// `output_unsupported` for an image of more than 2^32 blocks.
    pub fn place(&mut self, count: u32, runs: &[MetadataRun], anywhere: bool) -> Result<Vec<u32>> {
        let mut places = Vec::with_capacity(count as usize);
        let mut runs = runs.iter();
        let mut next = runs.next();
        let left_alone = if anywhere { Gaps::default() } else { std::mem::take(&mut self.gaps) };
        while (places.len() as u32) < count {
            let at = places.len() as u32;
            let (extent, together) = match next {
                Some(run) if run.start == at => {
                    next = runs.next();
                    (
                        self.gaps.take_fitting(run.length).map(|start| BlockRange { start, length: run.length }),
                        run.length,
                    )
                }
                _ => {
                    let singles = next.map_or(count, |run| run.start) - at;
                    (self.gaps.take_lowest(singles), singles)
                }
            };
            let extent = match extent {
                Some(extent) => extent,
                None => {
                    let start = narrow(self.end)?;
                    self.end += u64::from(together);
                    narrow(self.end)?;
                    BlockRange { start, length: together }
                }
            };
            places.extend(extent.start..extent.end());
        }
        if !anywhere {
            self.gaps = left_alone;
        }
        Ok(places)
    }

    /// The gaps that are left, in ascending order.
    pub fn gaps(&self) -> impl Iterator<Item = BlockRange> + '_ {
        self.gaps.by_start.iter().map(|(&start, &length)| BlockRange { start, length })
    }

    /// Adds an empty block at the end.
    ///
    /// # Errors
    /// As [`BlockMap::place`].
    pub fn extend(&mut self) -> Result<()> {
        self.end += 1;
        narrow(self.end).map(|_| ())
    }

    /// Blocks of the image.
    pub fn end(&self) -> u64 {
        self.end
    }
}

fn narrow(block: u64) -> Result<u32> {
    // The last address means a hole.
    u32::try_from(block)
        .ok()
        .filter(|&block| block < u32::MAX)
        .ok_or_else(|| Error::new(Code::OutputUnsupported, "an erofs image cannot be larger than 16 TiB"))
}
