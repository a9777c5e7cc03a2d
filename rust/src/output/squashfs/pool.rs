//! Threads that compress. Whoever brings data takes the results back in the order in which it brought them, so that
//! nothing depends on which thread was faster.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use flate2::Crc;

use super::codec::{BlockCodec, Compression};
use super::format::PLAIN;
use crate::error::{Code, Error, Result};

/// Pieces in a queue for each thread: one in work, one to go on with.
const AHEAD: usize = 4;

/// Bytes that a thread takes at a time, so that small blocks are not handed over one by one.
const PIECE: usize = 128 << 10;

/// Data of some blocks: one, or several small ones.
struct BlockJob {
    bytes: Vec<u8>,
    done: SyncSender<Result<PackedBlocks>>,
}

/// Blocks as they stand in an image.
#[derive(Debug)]
pub struct PackedBlocks {
    /// Their bytes, one after the other.
    pub stored: Vec<u8>,
    /// Of each block its length in the image, with [`PLAIN`] where it is not compressed, and a checksum of what is stored.
    pub lengths: Vec<(u32, u32)>,
    /// The plain bytes, for their memory.
    spent: Vec<u8>,
}

/// Jobs that no thread has taken yet; `None` once no more are taken.
struct Jobs {
    list: Mutex<Option<VecDeque<BlockJob>>>,
    changed: Condvar,
}

impl Jobs {
    fn list(&self) -> MutexGuard<'_, Option<VecDeque<BlockJob>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, job: BlockJob) -> Result<()> {
        self.list().as_mut().ok_or_else(ended)?.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    fn next(&self) -> Option<BlockJob> {
        let mut list = self.list();
        loop {
            if let Some(job) = list.as_mut()?.pop_front() {
                return Some(job);
            }
            list = self.changed.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        *self.list() = None;
        self.changed.notify_all();
    }
}

/// The threads; they end with the pool, and what was not taken by then is dropped.
pub struct Pool {
    jobs: Arc<Jobs>,
    threads: Vec<JoinHandle<()>>,
    block: usize,
    ahead: usize,
}

impl Pool {
    /// Starts them.
    ///
    /// # Errors
    /// `io_error` when the system refuses a thread; `output_unsupported` when a library refuses the settings.
    pub fn new(compression: &Compression) -> Result<Self> {
        let jobs = Arc::new(Jobs { list: Mutex::new(Some(VecDeque::new())), changed: Condvar::new() });
        let (block, ahead) = (compression.block, AHEAD * compression.threads);
        let mut pool = Pool { jobs, threads: Vec::new(), block, ahead };
        for _ in 0..compression.threads {
            let (codec, jobs) = (BlockCodec::new(compression)?, Arc::clone(&pool.jobs));
            let thread = std::thread::Builder::new().name("compress".to_owned());
            let thread = thread.spawn(move || work(codec, &jobs, block)).map_err(|error| Error::thread(&error))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Somebody who brings data.
    pub fn queue(&self) -> Queue {
        let jobs = Arc::clone(&self.jobs);
        Queue { jobs, block: self.block, ahead: self.ahead, waiting: VecDeque::new(), spare: Vec::new() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked was noticed by who waited for it.
            let _ = thread.join();
        }
    }
}

fn work(mut codec: BlockCodec, jobs: &Jobs, block: usize) {
    while let Some(BlockJob { bytes, done }) = jobs.next() {
        // A queue that does not wait any more has failed elsewhere.
        let _ = done.send(compress(&mut codec, bytes, block));
    }
}

fn compress(codec: &mut BlockCodec, bytes: Vec<u8>, block: usize) -> Result<PackedBlocks> {
    let mut blocks = PackedBlocks { stored: Vec::new(), lengths: Vec::new(), spent: Vec::new() };
    for plain in bytes.chunks(block) {
        let compressed = codec.compress(plain)?;
        let (stored, flag) = compressed.map_or((plain, PLAIN), |compressed| (compressed, 0));
        let mut checksum = Crc::new();
        checksum.update(stored);
        blocks.lengths.push((stored.len() as u32 | flag, checksum.sum()));
        blocks.stored.extend_from_slice(stored);
    }
    blocks.spent = bytes;
    Ok(blocks)
}

/// The pieces of one layer or writer, in their order.
pub struct Queue {
    jobs: Arc<Jobs>,
    block: usize,
    ahead: usize,
    waiting: VecDeque<Receiver<Result<PackedBlocks>>>,
    spare: Vec<Vec<u8>>,
}

impl Queue {
    /// Bytes that a piece has at most: whole blocks.
    pub fn piece(&self) -> usize {
        self.block.max(PIECE)
    }

    /// Memory for a piece.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(self.piece());
        buffer
    }

    /// Hands a piece over. When enough are on their way, the first of these is waited for and given back.
    ///
    /// # Errors
    /// As [`Queue::next`].
    pub fn send(&mut self, bytes: Vec<u8>) -> Result<Option<PackedBlocks>> {
        let first = if self.waiting.len() >= self.ahead { self.next()? } else { None };
        let (done, result) = sync_channel(1);
        self.jobs.add(BlockJob { bytes, done })?;
        self.waiting.push_back(result);
        Ok(first)
    }

    /// Waits for the first piece on its way; `None` when there is none.
    ///
    /// # Errors
    /// What compressing it returned; `io_error` when its thread has ended.
    pub fn next(&mut self) -> Result<Option<PackedBlocks>> {
        let Some(result) = self.waiting.pop_front() else { return Ok(None) };
        result.recv().map_err(|_| ended())?.map(Some)
    }

    /// Takes back the memory of a piece.
    pub fn recycle(&mut self, blocks: PackedBlocks) {
        self.spare.push(blocks.spent);
    }
}

fn ended() -> Error {
    Error::new(Code::Io, "a thread that compresses has ended")
}
