//! The tables of a block, and the symbols read by them (RFC 1951, 3.2.5 to 3.2.7).

use std::sync::LazyLock;

use super::bits::{Bits, Fault, Rush};
use super::huffman::{CODE_LENGTHS, DISTANCES, END, EXCEPTION, LENGTHS, LITERAL, SECOND, build, own, total, value};

const NO_LENGTH: Fault = "is damaged: a code means neither a byte nor a length";
const NO_DISTANCE: Fault = "is damaged: a code means no distance";
pub(super) const TOO_FAR: Fault = "is damaged: a distance reaches back before the start";

/// Bits that index the first tables.
const LENGTH_BITS: usize = 11;
const DISTANCE_BITS: usize = 8;
const CODE_LENGTH_BITS: usize = 7;
/// Entries of the tables: the powers of two after what the worst codes take, 2342 and 402.
const LENGTH_TABLE: usize = 1 << 12;
const DISTANCE_TABLE: usize = 1 << 9;

/// Bytes of a match that are copied at once.
const STEP: usize = 16;
/// Room that one turn of the fast loop may take: two bytes and the longest match, which is copied in steps, two at
/// least.
pub(super) const FAST_ROOM: usize = 2 + 258 + 2 * STEP;
/// Input that one turn of the fast loop may look at: 8 bytes, twice, and then 8 more.
pub(super) const FAST_INPUT: usize = 24;

/// The tables of one block.
pub(super) struct Tables {
    lengths: [u32; LENGTH_TABLE],
    distances: [u32; DISTANCE_TABLE],
}

/// The codes of blocks that bring none (3.2.6). Made once: such a block can be as short as ten bits, and a stream of
/// them, with others between, would take most of its time for making them anew.
pub(super) static FIXED: LazyLock<Tables> = LazyLock::new(|| {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    let mut tables = Tables::new();
    build(&mut tables.lengths, LENGTH_BITS, &lengths, &LENGTHS, false);
    build(&mut tables.distances, DISTANCE_BITS, &[5; 32], &DISTANCES, false);
    tables
});

pub(super) enum Symbol {
    Literal(u8),
    /// Length and distance.
    Match(usize, usize),
    End,
}

impl Tables {
    pub(super) fn new() -> Self {
        Tables { lengths: [0; LENGTH_TABLE], distances: [0; DISTANCE_TABLE] }
    }

    /// The codes that a block brings (3.2.7).
    pub(super) fn read(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let (lengths, distances, codes) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
        if lengths > 286 || distances > 30 {
            return Err("is damaged: a block has too many symbols");
        }
        let mut code_lengths = [0; 19];
        for &symbol in &ORDER[..codes] {
            code_lengths[symbol] = bits.take(3)? as u8;
        }
        let mut table = [0; 1 << CODE_LENGTH_BITS];
        if !build(&mut table, CODE_LENGTH_BITS, &code_lengths, &CODE_LENGTHS, false) {
            return Err("is damaged: the codes of a block's code lengths are impossible");
        }
        let mut all = [0; 286 + 30];
        let (mut at, end) = (0, lengths + distances);
        while at < end {
            bits.refill();
            let entry = table[bits.bits as usize & (table.len() - 1)];
            bits.try_drop(total(entry))?;
            let (length, times) = match value(entry) as u8 {
                16 if at == 0 => return Err("is damaged: a block repeats a code length before the first"),
                16 => (all[at - 1], 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length, 1),
            };
            if times > end - at {
                return Err("is damaged: a block has too many code lengths");
            }
            all[at..at + times].fill(length);
            at += times;
        }
        if all[256] == 0 {
            return Err("is damaged: a block has no code for its end");
        }
        let (lengths, distances) = all[..end].split_at(lengths);
        if !build(&mut self.lengths, LENGTH_BITS, lengths, &LENGTHS, true) {
            return Err("is damaged: the codes of a block's bytes and lengths are impossible");
        }
        if !build(&mut self.distances, DISTANCE_BITS, distances, &DISTANCES, true) {
            return Err("is damaged: the codes of a block's distances are impossible");
        }
        Ok(())
    }

    /// One symbol, wherever the input ends.
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<Symbol, Fault> {
        bits.refill();
        let (entry, length) = bits.code(&self.lengths, LENGTH_BITS)?;
        if entry & LITERAL != 0 {
            return Ok(Symbol::Literal(length as u8));
        }
        if entry & EXCEPTION != 0 {
            return if entry & END != 0 { Ok(Symbol::End) } else { Err(NO_LENGTH) };
        }
        let (entry, distance) = bits.code(&self.distances, DISTANCE_BITS)?;
        if entry & EXCEPTION != 0 {
            return Err(NO_DISTANCE);
        }
        Ok(Symbol::Match(length, distance))
    }

    /// Symbols as long as there are input and room for any one. Says whether the block has ended.
    ///
    /// At the head of a turn at least 56 bits are at hand and the next entry is looked up. A length and a distance take
    /// 48 at most, two bytes from the first table 22.
    #[inline(never)]
    pub(super) fn fast(&self, outer: &mut Bits<'_>, out: &mut [u8], mut at: usize) -> Result<(usize, bool), Fault> {
        let mut bits = outer.rush();
        let last_room = out.len() - FAST_ROOM;
        bits.refill();
        let mut entry = self.lengths[bits.peek(LENGTH_BITS)];
        let mut ended = false;
        while bits.rest.len() >= FAST_INPUT && at <= last_room {
            if entry & LITERAL != 0 {
                out[at] = byte(entry);
                at += 1;
                bits.drop(entry);
                entry = self.lengths[bits.peek(LENGTH_BITS)];
                if entry & LITERAL != 0 {
                    out[at] = byte(entry);
                    at += 1;
                    bits.drop(entry);
                    entry = self.lengths[bits.peek(LENGTH_BITS)];
                }
                bits.refill();
                if entry & LITERAL != 0 {
                    continue;
                }
            }
            if entry & EXCEPTION != 0 {
                if entry & SECOND != 0 {
                    bits.drop(entry);
                    entry = self.lengths[second(entry, &bits) & (LENGTH_TABLE - 1)];
                }
                if entry & LITERAL != 0 {
                    out[at] = byte(entry);
                    at += 1;
                    bits.drop(entry);
                    bits.refill();
                    entry = self.lengths[bits.peek(LENGTH_BITS)];
                    continue;
                }
                if entry & END != 0 {
                    bits.drop(entry);
                    ended = true;
                    break;
                }
                if entry & EXCEPTION != 0 {
                    return Err(NO_LENGTH);
                }
            }
            let length = bits.number(entry);
            bits.drop(entry);
            entry = self.distances[bits.peek(DISTANCE_BITS)];
            if entry & EXCEPTION != 0 {
                if entry & SECOND != 0 {
                    bits.drop(entry);
                    entry = self.distances[second(entry, &bits) & (DISTANCE_TABLE - 1)];
                }
                if entry & EXCEPTION != 0 {
                    return Err(NO_DISTANCE);
                }
            }
            let distance = bits.number(entry);
            bits.drop(entry);
            // Looked up before the copy, which takes a while to arrive in memory.
            bits.refill();
            entry = self.lengths[bits.peek(LENGTH_BITS)];
            if distance > at {
                return Err(TOO_FAR);
            }
            copy(out, at, distance, length);
            at += length;
        }
        let (left, rest, count) = (bits.rest.len(), bits.bits, bits.count);
        outer.resume(left, rest, count);
        Ok((at, ended))
    }
}

#[inline(always)]
fn byte(entry: u32) -> u8 {
    (entry >> 16) as u8
}

/// Where in the table the entry stands that an entry of the first table leads to.
#[inline(always)]
fn second(entry: u32, bits: &Rush<'_>) -> usize {
    value(entry) + bits.peek(own(entry) as usize)
}

/// Copies a match in large steps; up to 31 bytes behind it are written over.
#[inline(always)]
fn copy(out: &mut [u8], at: usize, distance: usize, length: usize) {
    if distance >= STEP {
        // Most matches end here, and none of these has to be told from another.
        let from = at - distance;
        out.copy_within(from..from + STEP, at);
        out.copy_within(from + STEP..from + 2 * STEP, at + STEP);
        if length > 2 * STEP {
            steps::<STEP>(out, at + 2 * STEP, distance, at + length);
        }
    } else if distance == 1 {
        let byte = out[at - 1];
        out[at..at + length].fill(byte);
    } else if distance >= 8 {
        steps::<8>(out, at, distance, at + length);
    } else {
        steps::<1>(out, at, distance, at + length);
    }
}

/// Copies `N` bytes at a time, from no nearer than that.
#[inline(never)]
fn steps<const N: usize>(out: &mut [u8], at: usize, distance: usize, end: usize) {
    for to in (at..end).step_by(N) {
        out.copy_within(to - distance..to - distance + N, to);
    }
}
