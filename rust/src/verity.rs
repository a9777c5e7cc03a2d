//! dm-verity: the hash tree of a finished image and the superblock before it, appended to the image as `veritysetup
//! format` makes them (Linux, Documentation/admin-guide/device-mapper/verity.rst; cryptsetup's wiki, `DMVerity`):
//! SHA-256, hash type 1 (the salt comes first), blocks of 4096 bytes for data and hashes.
//!
//! Hashes wait in the file, not in memory: what is taken is one piece a thread, whatever the image's size.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::digest::{Algorithm, Hasher};
use crate::error::{Code, Error, Result};

/// Bytes of a block, of data and of hashes.
pub const BLOCK: usize = 4096;
/// Bytes of a hash.
const HASH: usize = 32;
/// Hashes in a block.
const FAN_OUT: u64 = (BLOCK / HASH) as u64;
/// Data that one block of hashes is for: what a thread takes at a time.
const PIECE: usize = BLOCK * FAN_OUT as usize;
const SUPERBLOCK: usize = 512;
/// Most bytes of a salt that the superblock holds.
pub const SALT_MAX: usize = 256;

/// What goes into the hashes, and names them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hashed before each block; at most [`SALT_MAX`] bytes.
    pub salt: Vec<u8>,
    /// In the superblock.
    pub uuid: [u8; 16],
    /// That hash side by side; changes nothing in the result.
    pub threads: usize,
}

/// What must be known to open a sealed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Of the whole tree.
    pub root_hash: [u8; HASH],
    /// Where the superblock stands, in bytes: the size of the data.
    pub hash_offset: u64,
    /// Blocks of data.
    pub data_blocks: u64,
}

/// Appends superblock and hash tree to an image. A size that is no multiple of a block is filled up with zeros first.
///
/// # Arguments
/// - `file`: open for reading and writing.
/// - `tell`: gets bytes done and bytes to do, now and then; what it returns ends the work.
///
/// # Errors
/// `output_unsupported` for an empty image or a salt that is too long; `io`; what `tell` returns.
pub fn seal(file: &File, options: &Options, tell: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Sealed> {
    if options.salt.len() > SALT_MAX {
        let message = format!("a salt of dm-verity has at most {SALT_MAX} bytes, not {}", options.salt.len());
        return Err(Error::new(Code::OutputUnsupported, message));
    }
    let size = file.metadata().map_err(|error| Error::io("cannot read the size of the image", &error))?.len();
    if size == 0 {
        return Err(Error::new(Code::OutputUnsupported, "an empty image has no hash tree"));
    }
    let data_blocks = size.div_ceil(BLOCK as u64);
    let hash_offset = data_blocks * BLOCK as u64;
    if hash_offset != size {
        file.set_len(hash_offset).map_err(|error| Error::io("cannot fill up the image", &error))?;
    }
    let sealer = Sealer { file, options, zero: hash(&options.salt, &[0; BLOCK]) };
    // The tree stands with its root first: the place of a level depends on the sizes of those above it.
    let sizes = level_sizes(data_blocks);
    let mut end = hash_offset / BLOCK as u64 + 1 + sizes.iter().sum::<u64>();
    let (mut from, mut blocks) = (0, data_blocks);
    for size in sizes {
        end -= size;
        sealer.level(from, blocks, end, tell)?;
        (from, blocks) = (end, size);
    }
    let mut root = [0; BLOCK];
    sealer.read(&mut root, from)?;
    sealer.write(&superblock(options, data_blocks), hash_offset / BLOCK as u64)?;
    Ok(Sealed { root_hash: sealer.hash(&root), hash_offset, data_blocks })
}

/// Blocks of each level of hashes, that over the data first. None for one block of data: its hash is the root.
fn level_sizes(data_blocks: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(FAN_OUT);
        sizes.push(blocks);
    }
    sizes
}

fn superblock(options: &Options, data_blocks: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1u32.to_le_bytes());
    put(12, &1u32.to_le_bytes());
    put(16, &options.uuid);
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &data_blocks.to_le_bytes());
    put(80, &(options.salt.len() as u16).to_le_bytes());
    put(88, &options.salt);
    const { assert!(88 + SALT_MAX <= SUPERBLOCK) }
    block
}

fn hash(salt: &[u8], block: &[u8]) -> [u8; HASH] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(salt);
    hasher.update(block);
    hasher.finish_bytes()
}

struct Sealer<'a> {
    file: &'a File,
    options: &'a Options,
    /// The hash of a block of zeros, of which holes are made.
    zero: [u8; HASH],
}

impl Sealer<'_> {
    /// Hashes `blocks` blocks from block `from` on into the blocks from `to` on.
    fn level(&self, from: u64, blocks: u64, to: u64, tell: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let pieces = blocks.div_ceil(FAN_OUT);
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let work = |told: Option<&mut dyn FnMut(u64, u64) -> Result<()>>| -> Result<()> {
            let done = self.pieces(&next, &stop, (from, blocks, to), told);
            // Whoever fails takes the others along.
            if done.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            done
        };
        let helpers = (self.options.threads.max(1) as u64).min(pieces) - 1;
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..helpers)
                .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, || work(None)).ok())
                .collect();
            // Where no more threads are allowed, this one does all the work.
            let mut result = work(Some(tell));
            for helper in started {
                let other = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(other);
            }
            result
        })
    }

    /// Hashes pieces until none is left.
    fn pieces(
        &self,
        next: &AtomicU64,
        stop: &AtomicBool,
        (from, blocks, to): (u64, u64, u64),
        mut tell: Option<&mut dyn FnMut(u64, u64) -> Result<()>>,
    ) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        while !stop.load(Ordering::Relaxed) {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            let first = piece * FAN_OUT;
            if first >= blocks {
                break;
            }
            let count = (blocks - first).min(FAN_OUT);
            let data = &mut buffer[..count as usize * BLOCK];
            self.read(data, from + first)?;
            let mut hashes = [0; BLOCK];
            for (block, hash) in data.chunks_exact(BLOCK).zip(hashes.chunks_exact_mut(HASH)) {
                hash.copy_from_slice(&self.hash(block));
            }
            self.write(&hashes, to + piece)?;
            if let Some(tell) = &mut tell {
                tell((first + count) * BLOCK as u64, blocks * BLOCK as u64)?;
            }
        }
        Ok(())
    }

    fn hash(&self, block: &[u8]) -> [u8; HASH] {
        if block.iter().all(|byte| *byte == 0) { self.zero } else { hash(&self.options.salt, block) }
    }

    fn read(&self, data: &mut [u8], block: u64) -> Result<()> {
        let read = self.file.read_exact_at(data, block * BLOCK as u64);
        read.map_err(|error| Error::io("cannot read the image for its hash tree", &error))
    }

    fn write(&self, data: &[u8; BLOCK], block: u64) -> Result<()> {
        let written = self.file.write_all_at(data, block * BLOCK as u64);
        written.map_err(|error| Error::io("cannot write the hash tree", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(threads: usize) -> Options {
        Options { salt: (0..32).collect(), uuid: [7; 16], threads }
    }

    fn sealed(data: &[u8], options: &Options) -> (Sealed, Vec<u8>) {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(data, 0).expect("written");
        let found = seal(&file, options, &mut |_, _| Ok(())).expect("sealed");
        let mut all = vec![0; file.metadata().expect("there").len() as usize];
        file.read_exact_at(&mut all, 0).expect("read");
        (found, all)
    }

    /// The levels of hashes over some data, the root's last, made as simply as can be.
    fn levels(data: &[u8], salt: &[u8]) -> Vec<Vec<u8>> {
        let mut levels: Vec<Vec<u8>> = Vec::new();
        loop {
            let below = levels.last().map_or(data, Vec::as_slice);
            let mut hashes: Vec<u8> = below.chunks(BLOCK).flat_map(|block| hash(salt, block)).collect();
            if hashes.len() == HASH {
                levels.push(hashes);
                return levels;
            }
            hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
            levels.push(hashes);
        }
    }

    fn some_data(blocks: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut data: Vec<u8> = (0..blocks * BLOCK)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        // One block of zeros takes the short way.
        data[..BLOCK].fill(0);
        data
    }

    #[test]
    fn trees_of_one_two_and_three_levels() {
        for blocks in [1, 2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
            let data = some_data(blocks);
            let expected = levels(&data, &options(1).salt);
            for threads in [1, 3] {
                let (found, all) = sealed(&data, &options(threads));
                assert_eq!(found.root_hash.as_slice(), expected.last().expect("a root"));
                assert_eq!((found.data_blocks, found.hash_offset), (blocks as u64, data.len() as u64));
                let tree: Vec<u8> = expected.iter().rev().skip(1).flatten().copied().collect();
                assert_eq!(all[..data.len()], data);
                assert_eq!(all[data.len()..][..SUPERBLOCK], superblock(&options(1), blocks as u64)[..SUPERBLOCK]);
                assert!(all[data.len() + BLOCK..] == tree, "{blocks} blocks, {threads} threads");
            }
        }
    }

    #[test]
    fn a_size_that_is_no_multiple_is_filled_up() {
        let mut data = some_data(3);
        let whole = sealed(&data, &options(1));
        data[2 * BLOCK + 100..].fill(0);
        let zeros = sealed(&data, &options(1));
        assert_ne!(whole.0, zeros.0);
        assert_eq!(sealed(&data[..2 * BLOCK + 100], &options(2)), zeros);
    }

    #[test]
    fn what_has_no_tree() {
        let file = tempfile::tempfile().expect("a file");
        let refused = seal(&file, &options(1), &mut |_, _| Ok(())).expect_err("empty");
        assert_eq!(refused.code, Code::OutputUnsupported);
        file.set_len(4096).expect("grown");
        let long = Options { salt: vec![0; 257], ..options(1) };
        assert_eq!(seal(&file, &long, &mut |_, _| Ok(())).expect_err("long").code, Code::OutputUnsupported);
    }

    #[test]
    fn what_is_called_off_ends_all_threads() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 30).expect("grown");
        let mut told = 0;
        let mut tell = |_: u64, _: u64| {
            told += 1;
            if told == 3 { Err(Error::new(Code::Cancelled, "enough")) } else { Ok(()) }
        };
        assert_eq!(seal(&file, &options(4), &mut tell).expect_err("called off").code, Code::Cancelled);
        assert_eq!(told, 3);
    }
}
