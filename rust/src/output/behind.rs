//! A file that a thread of its own writes, while what comes next is made.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::output::CHUNK;

/// Pieces that wait to be written.
const QUEUE: usize = 3;

/// Bytes and where they go.
type Piece = (u64, Vec<u8>);

/// Writes pieces in order. What fails is told with a later piece, or at the end.
pub(super) struct Behind {
    sender: Option<SyncSender<Piece>>,
    recycled: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Behind {
    /// Writes pieces at their places in a file.
    pub fn placed(file: File) -> Result<Self> {
        Behind::new(move |at, bytes| file.write_all_at(bytes, at))
    }

    /// Writes pieces one after the other to what may be a pipe; their places mean nothing.
    pub fn streamed(mut file: File) -> Result<Self> {
        Behind::new(move |_, bytes| file.write_all(bytes))
    }

    fn new(write: impl FnMut(u64, &[u8]) -> io::Result<()> + Send + 'static) -> Result<Self> {
        let (sender, pieces) = sync_channel(QUEUE);
        let (recycle, recycled) = channel();
        let thread = std::thread::Builder::new().name("write".into());
        let thread = thread.spawn(move || run(&pieces, &recycle, write)).map_err(|error| Error::thread(&error))?;
        Ok(Behind { sender: Some(sender), recycled, thread: Some(thread) })
    }

    /// Hands a piece over; gives a buffer for the next one, with bytes of no meaning.
    ///
    /// # Errors
    /// What writing an earlier piece failed with; nothing can be written after.
    pub fn put(&mut self, at: u64, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match &self.sender {
            Some(sender) if sender.send((at, bytes)).is_ok() => Ok(self.recycled.try_recv().unwrap_or_default()),
            _ => Err(self.finish().err().unwrap_or_else(|| io::Error::other("nothing is written any more"))),
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// As [`Behind::put`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(written)) => written,
            None => Ok(()),
        }
    }
}

fn run(
    pieces: &Receiver<Piece>,
    recycle: &Sender<Vec<u8>>,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    for (at, bytes) in pieces {
        write(at, &bytes)?;
        // The other end may be gone already; then the buffer is freed.
        let _ = recycle.send(bytes);
    }
    Ok(())
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // Whoever drops it without finishing has failed already.
            let _ = thread.join();
        }
    }
}

/// A stream into a file or a pipe, in large pieces. Complete only after [`BehindStream::finish`].
pub struct BehindStream {
    behind: Behind,
    buffer: Vec<u8>,
    bytes: u64,
}

impl BehindStream {
    /// Writes to `file` from where it stands.
    ///
    /// # Errors
    /// `io_error` when no thread can be started.
    pub fn new(file: File) -> Result<Self> {
        Ok(BehindStream { behind: Behind::streamed(file)?, buffer: Vec::with_capacity(CHUNK), bytes: 0 })
    }

    /// Waits until all is written; returns the number of bytes.
    ///
    /// # Errors
    /// What writing failed with.
    pub fn finish(mut self) -> io::Result<u64> {
        self.hand_over()?;
        self.behind.finish()?;
        Ok(self.bytes)
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let full = std::mem::take(&mut self.buffer);
        self.buffer = self.behind.put(0, full)?;
        self.buffer.clear();
        self.buffer.reserve(CHUNK);
        Ok(())
    }
}

impl Write for BehindStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.hand_over()?;
        }
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    /// Hands on what there is; only [`BehindStream::finish`] waits for it.
    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn all_bytes_arrive_in_order() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut stream = BehindStream::new(file.try_clone().expect("cloned")).expect("a thread");
        let mut expected = Vec::new();
        for number in 0..3_000_u32 {
            let piece = vec![number as u8; number as usize];
            stream.write_all(&piece).expect("taken");
            expected.extend_from_slice(&piece);
        }
        assert_eq!(stream.finish().expect("written"), expected.len() as u64);
        let mut written = Vec::new();
        io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_end(&mut written).expect("read");
        assert!(written == expected);
    }

    #[test]
    fn pieces_go_to_their_places() {
        let file = tempfile::tempfile().expect("a file");
        let mut behind = Behind::placed(file.try_clone().expect("cloned")).expect("a thread");
        for at in [40_u64, 0, 20] {
            behind.put(at, vec![at as u8 + 1; 20]).expect("taken");
        }
        behind.finish().expect("written");
        let mut bytes = [0; 60];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes.map(|byte| byte - 1).chunks(20).map(|part| part[19]).collect::<Vec<_>>(), [0, 20, 40]);
    }

    #[test]
    fn a_failure_is_told_and_nothing_hangs() {
        let full = || File::options().write(true).open("/dev/full").expect("a device");
        let mut stream = BehindStream::new(full()).expect("a thread");
        let failed = (0..100).find_map(|_| stream.write_all(&[0; 1 << 20]).err()).expect("a failure");
        assert_eq!(failed.raw_os_error(), Some(28), "{failed}");
        assert!(stream.write_all(&[0; 3 << 20]).is_err(), "it stays failed");
        let mut short = BehindStream::new(full()).expect("a thread");
        short.write_all(b"x").expect("taken");
        assert_eq!(short.finish().expect_err("not written").raw_os_error(), Some(28));
        drop(BehindStream::new(full()).expect("a thread"));
    }
}
