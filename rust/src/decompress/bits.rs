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

    /// At least 56 bits, or all there are.
    pub(super) fn refill(&mut self) {
        while self.count < 56 && self.at < self.input.len() {
            self.bits |= u64::from(self.input[self.at]) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    fn peek(&self, count: u32) -> usize {
        (self.bits & ((1 << count) - 1)) as usize
    }

    pub(super) fn drop(&mut self, count: u32) {
        self.bits >>= count;
        self.count -= count;
    }

    /// The same input for the fast loop.
    pub(super) fn rush(&self) -> Rush<'_> {
        Rush { rest: &self.input[self.at..], bits: self.bits, count: self.count }
    }

    /// Goes on where the fast loop ended: with so many bytes left, and these bits.
    pub(super) fn resume(&mut self, left: usize, bits: u64, count: u32) {
        (self.at, self.bits, self.count) = (self.input.len() - left, bits, count % 64);
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

    /// Reads a code; gives its entry, and its value with what is added.
    pub(super) fn code(&mut self, table: &[u32], index: usize) -> Result<(u32, usize), Fault> {
        let mut entry = table[self.peek(index as u32)];
        if entry & SECOND != 0 {
            self.try_drop(total(entry))?;
            entry = table[value(entry) + self.peek(own(entry))];
        }
        let number = value(entry) + (self.peek(total(entry)) >> own(entry));
        self.try_drop(total(entry)).map(|()| (entry, number))
    }

    /// Gives back the bytes of which no bit was used.
    pub(super) fn settle(&mut self) {
        self.at -= self.count as usize / 8;
        self.count %= 8;
        self.bits &= (1 << self.count) - 1;
    }
}

/// The input where much of it is left: nothing here looks for an end.
///
/// Entries of tables are taken as they are, without their fields being cut out: a shift by an entry is one by its lowest
/// six bits, which hold how many bits its code and what that adds take, and below bit 6 `count` is right whatever is
/// taken from the bits above.
pub(super) struct Rush<'a> {
    pub(super) rest: &'a [u8],
    pub(super) bits: u64,
    pub(super) count: u32,
}

impl Rush<'_> {
    /// At least 56 bits, where 8 bytes of input are left.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if let Some(&word) = self.rest.first_chunk::<8>() {
            let count = self.count % 64;
            self.bits |= u64::from_le_bytes(word) << count;
            self.rest = &self.rest[(63 - count as usize) / 8..];
            self.count |= 56;
        }
    }

    #[inline(always)]
    pub(super) fn peek(&self, count: usize) -> usize {
        self.bits as usize & ((1 << count) - 1)
    }

    /// Takes the code of this entry, and what it adds.
    #[inline(always)]
    pub(super) fn drop(&mut self, entry: u32) {
        self.bits = self.bits.wrapping_shr(entry);
        self.count = self.count.wrapping_sub(entry);
    }

    /// The value of the code that comes next, of which this is the entry, with what is added.
    #[inline(always)]
    pub(super) fn number(&self, entry: u32) -> usize {
        let bits = self.bits & !u64::MAX.wrapping_shl(entry);
        (entry >> 16) as usize + bits.wrapping_shr(entry >> 8) as usize
    }
}
