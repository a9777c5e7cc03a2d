//! Buffers between two stages of a layer's work.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::Sender;

/// A queue of buffers, read as a stream. A sender that is dropped before its last word breaks the stream.
pub(super) struct Buffers<N, P> {
    /// The next buffer, an empty one at the end, nothing when the stream is broken.
    next: N,
    /// Whether it is there already.
    poll: P,
    recycle: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl<N: FnMut() -> Option<Vec<u8>>, P: FnMut() -> bool> Buffers<N, P> {
    pub(super) fn new(recycle: Sender<Vec<u8>>, next: N, poll: P) -> Self {
        Buffers { next, poll, recycle, current: Vec::new(), position: 0, ended: false }
    }

    /// Whether there are bytes that need not be waited for.
    pub(super) fn is_ready(&mut self) -> bool {
        self.position < self.current.len() || !self.ended && (self.poll)()
    }
}

impl<N: FnMut() -> Option<Vec<u8>>, P: FnMut() -> bool> Read for Buffers<N, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<N: FnMut() -> Option<Vec<u8>>, P: FnMut() -> bool> BufRead for Buffers<N, P> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() && !self.ended {
            let Some(next) = (self.next)() else {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            };
            self.ended = next.is_empty();
            let used = std::mem::replace(&mut self.current, next);
            self.position = 0;
            // The other end may be gone already; then the buffer is freed.
            let _ = self.recycle.send(used);
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}
