//! The digest of a file by its chunks, which are hashed side by side, and a copy that is made on the way.
//!
//! The digest is the BLAKE3 over the offset and the BLAKE3 of each chunk that is not all zeros, and over the size: a hole is
//! not read, and a file with holes has the digest of the same one without.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::digest::KeptHasher;
use crate::error::{Error, Result};

/// Bytes of a chunk: few enough to stay in a core's own cache between reading, hashing and writing.
const CHUNK: usize = 1 << 20;
/// Bytes that a copy leaves out where all are zero: a block of the file systems that there are.
const BLOCK: usize = 4096;

/// Hashes a file.
///
/// # Arguments
/// - `threads`: that hash side by side; changes nothing in the digest.
/// - `tell`: asked after each chunk of the calling thread; what it returns ends the work.
///
/// # Errors
/// `io_error`; what `tell` returns.
pub fn digest(file: &File, threads: usize, tell: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    run(file, None, threads, tell)
}

/// Makes an empty file the copy of another, with holes where that has nothing but zeros; returns the digest of what was
/// copied. Arguments as of [`digest`].
///
/// # Errors
/// As of [`digest`].
pub fn copy(file: &File, to: &File, threads: usize, tell: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    run(file, Some(to), threads, tell)
}

fn run(file: &File, copy: Option<&File>, threads: usize, tell: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    let size = file.metadata().map_err(|error| Error::io("cannot read the size of a file", &error))?.len();
    if let Some(copy) = copy {
        copy.set_len(size).map_err(|error| Error::io("cannot write a copy", &error))?;
    }
    let work = Work { file, copy, size, next: Mutex::new(Some(0)), hashes: Mutex::default() };
    let helpers = (threads.max(1) as u64).min(size.div_ceil(CHUNK as u64)).saturating_sub(1);
    thread::scope(|scope| {
        let started: Vec<_> = (0..helpers)
            .map_while(|_| {
                thread::Builder::new().name("digest".into()).spawn_scoped(scope, || work.run(&mut || Ok(()))).ok()
            })
            .collect();
        // Where no more threads are allowed, this one does all the work.
        let mut result = work.run(tell);
        for helper in started {
            let other = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(other);
        }
        result
    })?;
    let mut hashes = work.hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    hashes.sort_unstable();
    let mut hasher = KeptHasher::default();
    for (at, hash) in hashes {
        hasher.update(&at.to_le_bytes());
        hasher.update(&hash);
    }
    hasher.update(&size.to_le_bytes());
    Ok(hasher.finish())
}

struct Work<'a> {
    file: &'a File,
    copy: Option<&'a File>,
    size: u64,
    /// Where the next chunk is looked for; `None` at the end, or once a thread has failed.
    next: Mutex<Option<u64>>,
    hashes: Mutex<Vec<(u64, [u8; 32])>>,
}

impl Work<'_> {
    /// Takes chunks until none is left.
    fn run(&self, tell: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(self.size).unwrap_or(CHUNK))];
        let result = (|| {
            while let Some(at) = self.take() {
                let chunk = &mut buffer[..CHUNK.min((self.size - at) as usize)];
                self.chunk(at, chunk)?;
                tell()?;
            }
            Ok(())
        })();
        if result.is_err() {
            // Whoever fails takes the others along.
            *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    /// The offset of the next chunk that has data.
    fn take(&self) -> Option<u64> {
        let found = self.next();
        if let Some(data) = found {
            read_ahead(self.file, data + CHUNK as u64);
        }
        found
    }

    fn next(&self) -> Option<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next)?;
        let data = match seek(self.file, SeekFrom::Data(at)) {
            Ok(data) => data / CHUNK as u64 * CHUNK as u64,
            Err(Errno::NXIO) => self.size,
            // Where holes cannot be asked for, all is data.
            Err(_) => at,
        };
        let found = (data < self.size).then_some(data);
        *next = found.map(|data| data + CHUNK as u64);
        found
    }

    fn chunk(&self, at: u64, chunk: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(chunk, at).map_err(|error| Error::io("cannot read a file to the end", &error))?;
        if is_zero(chunk) {
            return Ok(());
        }
        let mut hasher = KeptHasher::default();
        hasher.update(chunk);
        let hash = hasher.finish_bytes();
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).push((at, hash));
        if let Some(copy) = self.copy {
            write(copy, at, chunk).map_err(|error| Error::io("cannot write a copy", &error))?;
        }
        Ok(())
    }
}

/// Asks the kernel to read what follows meanwhile: its own guess does not work for threads that take turns in one file, and
/// what shares its blocks with another file is in no memory yet. Without it the reading is slower, and that is all.
#[cfg(target_os = "linux")]
fn read_ahead(file: &File, at: u64) {
    let length = std::num::NonZeroU64::new(4 * CHUNK as u64);
    _ = rustix::fs::fadvise(file, at, length, rustix::fs::Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
fn read_ahead(_: &File, _: u64) {}

/// Writes the runs of blocks that are not all zeros.
fn write(file: &File, at: u64, chunk: &[u8]) -> std::io::Result<()> {
    let mut start = 0;
    while start < chunk.len() {
        let rest = &chunk[start..];
        let zeros = length(rest, true);
        let data = length(&rest[zeros..], false);
        file.write_all_at(&rest[zeros..zeros + data], at + (start + zeros) as u64)?;
        start += zeros + data;
    }
    Ok(())
}

/// Bytes of the blocks at the beginning that are all zeros, or are not.
fn length(bytes: &[u8], zeros: bool) -> usize {
    bytes.chunks(BLOCK).take_while(|block| is_zero(block) == zeros).map(<[u8]>::len).sum()
}

fn is_zero(bytes: &[u8]) -> bool {
    // In pieces that are compared as words; most differ in the first.
    bytes.chunks(256).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const MIB: u64 = 1 << 20;

    fn file(parts: &[(u64, &[u8])], size: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("its size");
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).expect("written");
        }
        file
    }

    fn digest_of(file: &File, threads: usize) -> String {
        digest(file, threads, &mut || Ok(())).expect("hashed")
    }

    #[test]
    fn the_rule() {
        let bytes: Vec<u8> = (0..MIB + 5).map(|n| (n % 251) as u8).collect();
        let size = 9 * MIB + 7;
        let mut expected = KeptHasher::default();
        for (at, chunk) in [(2 * MIB, &bytes[..MIB as usize]), (3 * MIB, &[])] {
            let mut padded = vec![0; MIB as usize];
            padded[..chunk.len()].copy_from_slice(chunk);
            if chunk.is_empty() {
                padded[..5].copy_from_slice(&bytes[MIB as usize..]);
            }
            expected.update(&at.to_le_bytes());
            expected.update(&{
                let mut hasher = KeptHasher::default();
                hasher.update(&padded);
                hasher.finish_bytes()
            });
        }
        expected.update(&size.to_le_bytes());
        let expected = expected.finish();
        for threads in [1, 2, 5] {
            assert_eq!(digest_of(&file(&[(2 * MIB, &bytes)], size), threads), expected);
        }
        let without_holes = file(&[(0, &vec![0; size as usize]), (2 * MIB, &bytes)], size);
        assert_eq!(digest_of(&without_holes, 2), expected);
    }

    #[test]
    fn every_byte_and_the_size_count() {
        let bytes = vec![7; 3 * MIB as usize];
        let original = digest_of(&file(&[(0, &bytes)], 4 * MIB), 2);
        for at in [0, MIB - 1, MIB, 3 * MIB - 1, 3 * MIB, 4 * MIB - 1] {
            assert_ne!(digest_of(&file(&[(0, &bytes), (at, b"x")], 4 * MIB), 2), original, "byte {at}");
        }
        assert_ne!(digest_of(&file(&[(0, &bytes)], 4 * MIB + 1), 2), original);
        assert_ne!(digest_of(&file(&[(MIB, &bytes)], 4 * MIB), 2), original);
        assert_ne!(digest_of(&file(&[], 0), 2), digest_of(&file(&[], 1), 2));
    }

    #[test]
    fn a_copy_is_the_same_and_keeps_holes() {
        use std::os::unix::fs::MetadataExt;
        let size = 40 * MIB + 100;
        let source = file(&[(5000, b"text"), (20 * MIB, &[9; 3 << 20]), (size - 3, b"end")], size);
        for threads in [1, 3] {
            let to = tempfile::tempfile().expect("a file");
            let digest = copy(&source, &to, threads, &mut || Ok(())).expect("copied");
            assert_eq!(digest, digest_of(&source, 1));
            assert_eq!(digest, digest_of(&to, 1));
            let (mut ours, mut theirs) = (vec![0; size as usize], vec![0; size as usize]);
            source.read_exact_at(&mut theirs, 0).expect("read");
            to.read_exact_at(&mut ours, 0).expect("read");
            assert!(ours == theirs);
            assert!(to.metadata().expect("there").blocks() <= source.metadata().expect("there").blocks());
        }
    }

    #[test]
    fn whoever_fails_ends_the_work() {
        let source = file(&[(0, &vec![1; 8 * MIB as usize])], 8 * MIB);
        let mut asked = 0;
        // Of two threads one may be through with all of it before the other begins.
        let stopped = digest(&source, 1, &mut || {
            asked += 1;
            Err(Error::new(Code::Cancelled, "stopped"))
        });
        assert_eq!(stopped.expect_err("stopped").code, Code::Cancelled);
        assert_eq!(asked, 1);
        let full = File::options().write(true).open("/dev/full").expect("a device");
        assert!(copy(&source, &full, 2, &mut || Ok(())).is_err());
    }
}
