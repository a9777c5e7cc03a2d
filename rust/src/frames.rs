//! A file as a row of zstd frames of one size, which are compressed and decompressed side by side.
//!
//! Frame `n` holds the bytes of the file from `n` times [`FRAME`] on, with a checksum (RFC 8878, 3.1.1), so that each is
//! written to its place when it has arrived, whatever has become of those before it. In front of each stands a skippable
//! frame (3.1.2) with its length, as pzstd writes it: whoever reads a stream knows where a frame ends before it is
//! decompressed. Any zstd decompressor reads the whole.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use zstd::bulk;
use zstd::zstd_safe::CParameter;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Code, Error, Result};

/// Bytes of the file in each frame but the last.
pub const FRAME: usize = 2 << 20;
/// The skippable frame in front of each: its magic, the length of what it holds, and that: the length of the next frame.
const HEAD: usize = 12;
const MAGIC: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0];
/// Bytes that are left out together where all are zero.
const BLOCK: usize = 64 << 10;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Number of frames of a file of `size` bytes; an empty one has one.
fn count(size: u64) -> u64 {
    size.div_ceil(FRAME as u64).max(1)
}

/// Bytes of the file in frame `index`.
fn length(size: u64, index: u64) -> usize {
    (size - index * FRAME as u64).min(FRAME as u64) as usize
}

/// Compresses `source` from its first byte to its last. The same file gives the same bytes, whatever `threads`.
///
/// # Errors
/// `io_error` when `source` cannot be read, `output` cannot be written, or there is no such level.
pub fn compress(source: &File, output: &mut dyn Write, level: i32, threads: usize) -> Result<(Digest, u64)> {
    let size = source.metadata().map_err(|error| Error::io("cannot read the file", &error))?.len();
    let threads = (threads.max(1) as u64).min(count(size)) as usize;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut written = 0;
    thread::scope(|scope| {
        // Each thread has every so manieth frame: taken in turns, they come in order.
        let mut done = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = sync_channel(1);
            done.push(receiver);
            let work = move || compress_some(source, size, first as u64, threads, level, &sender);
            thread::Builder::new().name("compress".into()).spawn_scoped(scope, work).map_err(|e| Error::thread(&e))?;
        }
        for index in 0..count(size) {
            let Ok(frame) = done[(index % threads as u64) as usize].recv() else {
                return Err(Error::new(Code::Internal, "a thread that compresses has ended early"));
            };
            let frame = frame?;
            hasher.update(&frame);
            output.write_all(&frame).map_err(|error| Error::io("cannot write the frames", &error))?;
            written += frame.len() as u64;
        }
        Ok(())
    })?;
    Ok((hasher.finish(), written))
}

fn compress_some(source: &File, size: u64, first: u64, step: usize, level: i32, done: &SyncSender<Result<Vec<u8>>>) {
    let failed = |error: std::io::Error| Error::io("cannot compress with zstd", &error);
    let set_up = || {
        let mut compressor = bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(compressor)
    };
    let mut compressor = match set_up() {
        Ok(compressor) => compressor,
        Err(error) => {
            // Nobody waits any more when it cannot be sent, here and below.
            let _ = done.send(Err(failed(error)));
            return;
        }
    };
    let mut bytes = vec![0; FRAME];
    for index in (first..count(size)).step_by(step) {
        let part = &mut bytes[..length(size, index)];
        let frame = source
            .read_exact_at(part, index * FRAME as u64)
            .map_err(|error| Error::io("cannot read the file", &error))
            .and_then(|()| {
                let mut frame = Vec::with_capacity(HEAD + zstd::zstd_safe::compress_bound(part.len()));
                frame.extend_from_slice(&MAGIC);
                frame.extend_from_slice(&[0; 4]);
                let data = compressor.compress(part).map_err(failed)?;
                frame[8..].copy_from_slice(&(data.len() as u32).to_le_bytes());
                frame.extend_from_slice(&data);
                Ok(frame)
            });
        let ended = frame.is_err();
        if done.send(frame).is_err() || ended {
            return;
        }
    }
}

/// Takes frames as they come, in pieces of any size, and writes what is in them to files. Complete only after
/// [`FrameWriter::finish`]; what it stops at stays in the files.
pub struct FrameWriter {
    size: u64,
    next: u64,
    head: Vec<u8>,
    frame: Vec<u8>,
    wanted: usize,
    sender: Option<SyncSender<(u64, Vec<u8>)>>,
    recycled: Receiver<Vec<u8>>,
    failed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl FrameWriter {
    /// A writer of a file of `size` bytes, to one or more empty files: what is zero stays a hole in them.
    ///
    /// # Errors
    /// `io_error` when no thread can be started, or the files cannot have this size.
    pub fn new(files: Vec<File>, size: u64, threads: usize) -> Result<Self> {
        for file in &files {
            file.set_len(size).map_err(|error| failed(&error))?;
        }
        let threads = (threads.max(1) as u64).min(count(size)) as usize;
        let (sender, frames) = sync_channel(threads);
        let (recycle, recycled) = channel();
        let mut made = FrameWriter {
            size,
            next: 0,
            head: Vec::with_capacity(HEAD),
            frame: Vec::new(),
            wanted: 0,
            sender: Some(sender),
            recycled,
            failed: Arc::default(),
            threads: Vec::with_capacity(threads),
        };
        let (frames, files) = (Arc::new(Mutex::new(frames)), Arc::new(files));
        for _ in 0..threads {
            let (frames, files, recycle) = (Arc::clone(&frames), Arc::clone(&files), recycle.clone());
            let told = Arc::clone(&made.failed);
            let work = move || {
                let done = write_some(&frames, &files, size, &recycle, &told);
                told.fetch_or(done.is_err(), Ordering::Relaxed);
                done
            };
            let thread = thread::Builder::new().name("decompress".into()).spawn(work);
            made.threads.push(thread.map_err(|error| Error::thread(&error))?);
        }
        Ok(made)
    }

    /// The next bytes of the stream. Waits while the threads have enough to do.
    ///
    /// # Errors
    /// `compression_invalid` for what is no such stream, or one of a longer file; `io_error`. Both may be of earlier
    /// bytes, and nothing can be written after.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.failed.load(Ordering::Relaxed) {
                return Err(self.failure());
            }
            if self.head.len() < HEAD {
                if self.next == count(self.size) {
                    return Err(invalid("more frames come than the file has"));
                }
                let (taken, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
                self.head.extend_from_slice(taken);
                bytes = rest;
                if self.head.len() < HEAD {
                    return Ok(());
                }
                self.begin()?;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(self.wanted - self.frame.len()));
            self.frame.extend_from_slice(taken);
            bytes = rest;
            if self.frame.len() == self.wanted {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// As [`FrameWriter::write`]; `compression_invalid` when the stream has ended early.
    pub fn finish(&mut self) -> Result<()> {
        self.end()?;
        if self.next != count(self.size) || !self.head.is_empty() {
            return Err(invalid("the frames end early"));
        }
        Ok(())
    }

    /// A frame begins.
    fn begin(&mut self) -> Result<()> {
        let (magic, stated) = self.head.split_at(MAGIC.len());
        let wanted = stated.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let most = zstd::zstd_safe::compress_bound(length(self.size, self.next));
        if magic != MAGIC || wanted == 0 || wanted > most {
            return Err(invalid(format!("no zstd frame with its length in front is where frame {} is due", self.next)));
        }
        self.wanted = wanted;
        self.frame = self.recycled.try_recv().unwrap_or_default();
        self.frame.clear();
        self.frame.reserve(wanted);
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        let frame = std::mem::take(&mut self.frame);
        match &self.sender {
            Some(sender) if sender.send((self.next, frame)).is_ok() => {}
            _ => return Err(self.failure()),
        }
        self.next += 1;
        self.head.clear();
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.sender = None;
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(done) => result = result.and(done),
            }
        }
        result
    }

    fn failure(&mut self) -> Error {
        let error = self.end().err();
        error.unwrap_or_else(|| Error::new(Code::Internal, "nothing is written any more"))
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        self.sender = None;
        self.failed.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Whoever drops it without finishing has failed already.
            let _ = thread.join();
        }
    }
}

/// Writes frames as long as some come.
fn write_some(
    frames: &Mutex<Receiver<(u64, Vec<u8>)>>,
    files: &[File],
    size: u64,
    recycle: &Sender<Vec<u8>>,
    stopped: &AtomicBool,
) -> Result<()> {
    let decompressor = bulk::Decompressor::new();
    let mut decompressor = decompressor.map_err(|error| Error::io("setting up the zstd decompressor", &error))?;
    let mut bytes = vec![0; FRAME];
    loop {
        let next = frames.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((index, frame)) = next else { return Ok(()) };
        if stopped.load(Ordering::Relaxed) {
            // What waits is taken all the same: whoever hands frames over may be waiting for room.
            continue;
        }
        let part = &mut bytes[..length(size, index)];
        let found = decompressor.decompress_to_buffer(&frame, &mut *part);
        match found {
            Ok(found) if found == part.len() => {}
            Ok(found) => return Err(invalid(format!("frame {index} has {found} bytes of {}", part.len()))),
            Err(error) => return Err(invalid(format!("frame {index} is damaged: {error}"))),
        }
        let _ = recycle.send(frame);
        for file in files {
            write_data(file, part, index * FRAME as u64).map_err(|error| failed(&error))?;
        }
    }
}

/// Writes bytes to their place in an empty file, but not those blocks that are all zero.
fn write_data(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let mut begun = 0;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if *block == ZEROS[..block.len()] {
            let place = index * BLOCK;
            file.write_all_at(&bytes[begun..place], at + begun as u64)?;
            begun = place + block.len();
        }
    }
    file.write_all_at(&bytes[begun..], at + begun as u64)
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("cannot write the file", error)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::CompressionInvalid, message)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Files of interesting sizes, with runs of zeros.
    fn cases() -> Vec<Vec<u8>> {
        [0, 1, BLOCK, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME + 77].map(sample).to_vec()
    }

    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = |index: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if index / (3 * BLOCK) % 2 == 1 { 0 } else { (state >> 27) as u8 }
        };
        (0..size).map(&mut next).collect()
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    fn compressed(bytes: &[u8], threads: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        let (digest, length) = compress(&file_of(bytes), &mut stream, 3, threads).expect("compressed");
        assert_eq!((digest, length), (Digest::of(&stream), stream.len() as u64));
        stream
    }

    /// What comes of a stream given in pieces.
    fn written(stream: &[u8], size: usize, piece: usize) -> Result<[Vec<u8>; 2]> {
        let mut files = [tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file")];
        let clones = files.iter().map(|file| file.try_clone().expect("cloned")).collect();
        let mut writer = FrameWriter::new(clones, size as u64, 3)?;
        for part in stream.chunks(piece) {
            writer.write(part)?;
        }
        writer.finish()?;
        Ok([0, 1].map(|index| {
            let mut bytes = Vec::new();
            std::io::Seek::rewind(&mut files[index]).expect("rewound");
            files[index].read_to_end(&mut bytes).expect("read");
            bytes
        }))
    }

    #[test]
    fn what_was_compressed_comes_back_in_every_file() {
        for case in cases() {
            let stream = compressed(&case, 2);
            for piece in [7_000, 1 << 20] {
                assert!(written(&stream, case.len(), piece).expect("written") == [case.clone(), case.clone()]);
            }
            assert!(zstd::decode_all(&stream[..]).expect("any decompressor reads it") == case);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_byte() {
        let case = sample(5 * FRAME);
        assert!(compressed(&case, 1) == compressed(&case, 4));
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let stream = compressed(&vec![0; 3 * FRAME], 2);
        let file = tempfile::tempfile().expect("a file");
        let mut writer = FrameWriter::new(vec![file.try_clone().expect("cloned")], 3 * FRAME as u64, 2).expect("made");
        writer.write(&stream).expect("written");
        writer.finish().expect("finished");
        let found = file.metadata().expect("told");
        assert_eq!((found.len(), found.blocks()), (3 * FRAME as u64, 0));
    }

    #[test]
    fn streams_that_are_not_of_the_file_are_refused() {
        let case = sample(2 * FRAME + 9);
        let stream = compressed(&case, 2);
        let refused = |stream: &[u8], size: usize| {
            let error = written(stream, size, 1 << 20).expect_err("refused");
            assert_eq!(error.code, Code::CompressionInvalid, "{error}");
        };
        for size in [0, 1, FRAME, 2 * FRAME + 8, 2 * FRAME + 10, 4 * FRAME] {
            refused(&stream, size);
        }
        refused(&stream[..stream.len() - 1], case.len());
        refused(&[], case.len());
        refused(&[&stream[..], b"x"].concat(), case.len());
        refused(&zstd::encode_all(&case[..], 3).expect("compressed"), case.len());
        for at in [0, 9, 30, stream.len() / 2, stream.len() - 1] {
            let mut damaged = stream.clone();
            damaged[at] ^= 0x40;
            refused(&damaged, case.len());
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_nothing_hangs() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let size = 8 * FRAME;
        let stream = compressed(&sample(size), 2);
        let device = File::options().write(true).open("/dev/full").expect("a device");
        assert_eq!(FrameWriter::new(vec![device], size as u64, 2).err().expect("it has no size").code, Code::Io);
        // It takes a size, and no bytes.
        let sealed = memfd_create("sealed", MemfdFlags::ALLOW_SEALING).expect("a file");
        fcntl_add_seals(&sealed, SealFlags::WRITE).expect("sealed");
        let mut writer = FrameWriter::new(vec![sealed.into()], size as u64, 2).expect("made");
        let told = writer.write(&stream).and_then(|()| writer.finish()).expect_err("refused");
        assert_eq!((told.code, told.context.errno), (Code::Io, Some(1)), "{told}");
        assert!(writer.write(&stream).is_err(), "it stays failed");
    }

    #[test]
    fn a_stream_may_be_left_in_the_middle() {
        let stream = compressed(&sample(8 * FRAME), 2);
        let mut writer =
            FrameWriter::new(vec![tempfile::tempfile().expect("a file")], 8 * FRAME as u64, 2).expect("made");
        writer.write(&stream[..stream.len() / 2]).expect("written");
        drop(writer);
    }
}
