//! The input of DEFLATE, bit by bit (RFC 1951, 3.1.1).

use super::huffman::{SECOND, own, total, value};

/// What is wrong with a stream, as a predicate.
pub(super) type Fault = &'static str;

pub(super) const ENDS: Fault = "ends early";

/// The input, bit by bit.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    pub(super) input: &'a [u8],
    /// Bytes of it that are taken.
    pub(super) at: usize,
    /// The next bits, the first one lowest. Above `count` there may be some of bytes that do not count as taken yet.
    pub(super) bits: u64,
    pub(super) count: u32,
}

impl Bits<'_> {
    pub(super) fn left(&self) -> usize {
        self.input.len() - self.at
    }

    /// At least 56 bits, where 8 bytes of input are left.
    #[inline(always)]
    pub(super) fn refill_fast(&mut self) {
        if let Some(&word) = self.input[self.at..].first_chunk::<8>() {
            self.bits |= u64::from_le_bytes(word) << self.count;
            self.at += (63 - self.count as usize) / 8;
            self.count |= 56;
        }
    }

    /// At least 56 bits, or all there are.
    pub(super) fn refill(&mut self) {
        while self.count < 56 && self.at < self.input.len() {
            self.bits |= u64::from(self.input[self.at]) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.bits & ((1 << count) - 1)) as usize
    }

    #[inline(always)]
    pub(super) fn drop(&mut self, count: u32) {
        self.bits >>= count;
        self.count -= count;
    }

    pub(super) fn try_drop(&mut self, count: u32) -> Result<(), Fault> {
        if count > self.count {
            return Err(ENDS);
        }
        self.drop(count);
        Ok(())
    }

    /// Up to 32 bits as a number.
    pub(super) fn take(&mut self, count: u32) -> Result<usize, Fault> {
        self.refill();
        let number = self.peek(count);
        self.try_drop(count).map(|()| number)
    }

    /// What stands behind the code that comes next, of which this is the entry.
    #[inline(always)]
    pub(super) fn extra(&self, entry: u32) -> usize {
        self.peek(total(entry)) >> own(entry)
    }

    /// Reads a code; gives its entry, and its value with what is added.
    pub(super) fn code(&mut self, table: &[u32], index: usize) -> Result<(u32, usize), Fault> {
        let mut entry = table[self.peek(index as u32)];
        if entry & SECOND != 0 {
            self.try_drop(total(entry))?;
            entry = table[value(entry) + self.peek(own(entry))];
        }
        let number = value(entry) + self.extra(entry);
        self.try_drop(total(entry)).map(|()| (entry, number))
    }

    /// Gives back the bytes of which no bit was used.
    pub(super) fn settle(&mut self) {
        self.at -= self.count as usize / 8;
        self.count %= 8;
        self.bits &= (1 << self.count) - 1;
    }
}
