//! Tables that decode the Huffman codes of DEFLATE (RFC 1951, 3.2.2).
//!
//! The next bits of the stream index a table, and the entry there says what they mean. A code with more bits than the
//! index leads to a second table, behind the first. The first bit of a code is the lowest of the index, so an entry for
//! a short code stands at every index that ends with it.
//!
//! An entry, from its lowest bit: 8 bits for how many bits the code and what it adds take together, 4 for how many the
//! code takes alone, the flags, and from bit 16 on the value.

/// The longest code.
const LONGEST: usize = 15;
/// Symbols of the largest alphabet.
const SYMBOLS: usize = 288;

/// The value is a byte.
pub(super) const LITERAL: u32 = 1 << 31;
/// The entry needs a closer look; without one of the next two flags it says that no code begins so.
pub(super) const EXCEPTION: u32 = 1 << 15;
/// The value is where a second table begins; the code's own bits give way to those of its index.
pub(super) const SECOND: u32 = 1 << 14;
/// The block ends.
pub(super) const END: u32 = 1 << 13;

/// The entry's fields.
pub(super) fn total(entry: u32) -> u32 {
    entry & 0xff
}

pub(super) fn own(entry: u32) -> u32 {
    entry >> 8 & 0xf
}

pub(super) fn value(entry: u32) -> usize {
    ((entry & !LITERAL) >> 16) as usize
}

const fn symbol(value: u32, extra: u32) -> u32 {
    value << 16 | extra
}

/// Bytes, the end of a block, and lengths (3.2.5), as entries without their code. The last two symbols mean nothing.
pub(super) const LENGTHS: [u32; 288] = {
    let mut symbols = [EXCEPTION; 288];
    let mut byte = 0;
    while byte < 256 {
        symbols[byte] = LITERAL | symbol(byte as u32, 0);
        byte += 1;
    }
    symbols[256] = EXCEPTION | END;
    let (mut at, mut base) = (0, 3);
    while at < 28 {
        let extra = if at < 8 { 0 } else { at / 4 - 1 };
        symbols[257 + at as usize] = symbol(base, extra);
        base += 1 << extra;
        at += 1;
    }
    symbols[285] = symbol(258, 0);
    symbols
};

/// Distances (3.2.5). The last two symbols mean nothing.
pub(super) const DISTANCES: [u32; 32] = {
    let mut symbols = [EXCEPTION; 32];
    let (mut at, mut base) = (0, 1);
    while at < 30 {
        let extra = if at < 4 { 0 } else { at / 2 - 1 };
        symbols[at as usize] = symbol(base, extra);
        base += 1 << extra;
        at += 1;
    }
    symbols
};

/// Lengths of codes and their repetitions (3.2.7).
pub(super) const CODE_LENGTHS: [u32; 19] = {
    let mut symbols = [0; 19];
    let mut at = 0;
    while at < 19 {
        symbols[at] = symbol(at as u32, 0);
        at += 1;
    }
    symbols
};

/// Makes the table for codes of these lengths, with a first table for `bits` bits. False when there are no such codes.
///
/// `table` has room for all second tables that the alphabet can need. The codes have to use up all there are; only
/// where `sparse` says so a single code of one bit, or none at all, will do: what zlib takes.
pub(super) fn build(table: &mut [u32], bits: usize, lengths: &[u8], alphabet: &[u32], sparse: bool) -> bool {
    let mut counts = [0_u16; LONGEST + 1];
    for &length in lengths {
        counts[usize::from(length) & LONGEST] += 1;
    }
    counts[0] = 0;
    let longest = (1..=LONGEST).rev().find(|&length| counts[length] > 0).unwrap_or(0);
    // Codes of the longest kind that nobody has taken.
    let mut left = 1_i32;
    for &count in &counts[1..] {
        left = (left << 1) - i32::from(count);
        if left < 0 {
            return false;
        }
    }
    if left > 0 {
        if !sparse || longest > 1 {
            return false;
        }
        table[..1 << bits].fill(EXCEPTION | 1);
    }
    // Symbols in the order of their codes: by length, then by number.
    let mut starts = [0_u16; LONGEST + 2];
    for length in 1..=LONGEST {
        starts[length + 1] = starts[length] + counts[length];
    }
    let mut sorted = [0_u16; SYMBOLS];
    for (symbol, &length) in lengths.iter().enumerate() {
        if length > 0 {
            let start = &mut starts[usize::from(length) & LONGEST];
            sorted[usize::from(*start)] = symbol as u16;
            *start += 1;
        }
    }
    let mut symbols = sorted.iter();
    let mut entry = |own: usize| {
        let symbol = symbols.next().map_or(0, |&symbol| usize::from(symbol));
        alphabet[symbol] + (own << 8 | own) as u32
    };
    let code = fill_first(table, bits, &counts, &mut entry);
    fill_second(table, bits, longest, &counts, code, &mut entry);
    true
}

/// Begins with the table for codes of one bit and doubles it for each bit more. Returns the first code that is longer.
fn fill_first(table: &mut [u32], bits: usize, counts: &[u16], entry: &mut impl FnMut(usize) -> u32) -> usize {
    let mut code = 0;
    for (length, &count) in (1..).zip(&counts[1..=bits]) {
        for _ in 0..count {
            table[code] = entry(length);
            code = next(code, length);
        }
        if length < bits {
            table.copy_within(..1 << length, 1 << length);
        }
    }
    code
}

/// One table for each index of the first that longer codes begin with.
fn fill_second(
    table: &mut [u32],
    bits: usize,
    longest: usize,
    counts: &[u16],
    mut code: usize,
    entry: &mut impl FnMut(usize) -> u32,
) {
    let first = 1 << bits;
    let (mut index, mut start, mut end) = (usize::MAX, first, first);
    for length in bits + 1..=longest {
        for rest in (1..=counts[length]).rev() {
            if code & (first - 1) != index {
                index = code & (first - 1);
                // As many bits as it takes until the codes that begin so leave nothing over.
                let mut more = length - bits;
                let mut left = (1_i32 << more) - i32::from(rest);
                while left > 0 && bits + more < longest {
                    more += 1;
                    left = (left << 1) - i32::from(counts[bits + more]);
                }
                (start, end) = (end, end + (1 << more));
                table[index] = EXCEPTION | SECOND | (start << 16 | more << 8 | bits) as u32;
            }
            let symbol = entry(length - bits);
            for at in (start + (code >> bits)..end).step_by(1 << (length - bits)) {
                table[at] = symbol;
            }
            code = next(code, length);
        }
    }
}

/// The code of `length` bits after this one; 0 after the last. Its first bit is the lowest, so the carry goes down.
fn next(code: usize, length: usize) -> usize {
    let ones = (!(code << (usize::BITS as usize - length))).leading_zeros() as usize;
    if ones >= length {
        return 0;
    }
    let bit = 1 << (length - 1 - ones);
    code & (bit - 1) | bit
}
