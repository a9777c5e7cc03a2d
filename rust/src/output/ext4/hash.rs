//! The hash of a name in an indexed directory: half of MD4 over 32 bytes at a time.
//!
//! Kernel documentation, ext4, "Hash Tree Directories"; the rounds are those of RFC 1320, section 3.4, fewer of them.

/// A name's place in the index: the hash, even, and a second word that orders equal ones.
pub(super) type Hash = (u32, u32);

const SQRT_2: u32 = 0x5A82_7999;
const SQRT_3: u32 = 0x6ED9_EBA1;

/// The last even hash means the end of a directory to readers, so no name has it.
const END: u32 = 0xFFFF_FFFE;

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (|x, y, z| (x & y).wrapping_add((x ^ y) & z), SQRT_2, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (|x, y, z| x ^ y ^ z, SQRT_3, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let mut turning = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, word) in order.into_iter().enumerate() {
            let [a, b, c, d] = turning;
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(words[word]).wrapping_add(constant);
            turning = [d, sum.rotate_left(shifts[step % 4]), b, c];
        }
    }
    for (word, turned) in state.iter_mut().zip(turning) {
        *word = word.wrapping_add(turned);
    }
}

/// What MD4 begins with, and a seed of zeros stands for.
const INITIAL: [u32; 4] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];

/// Hashes a name, its bytes taken as signed, with the seed of the superblock.
pub(super) fn half_md4(seed: &[u32; 4], name: &[u8]) -> Hash {
    let mut state = if *seed == [0; 4] { INITIAL } else { *seed };
    for (index, part) in name.chunks(32).enumerate() {
        let rest = (name.len() - index * 32) as u32;
        let padding = rest | rest << 8 | rest << 16 | rest << 24;
        let mut words = [padding; 8];
        for (word, bytes) in words.iter_mut().zip(part.chunks(4)) {
            for &byte in bytes {
                *word = (*word << 8).wrapping_add(byte as i8 as u32);
            }
        }
        transform(&mut state, &words);
    }
    let hash = state[1] & !1;
    (if hash == END { END - 2 } else { hash }, state[2])
}
