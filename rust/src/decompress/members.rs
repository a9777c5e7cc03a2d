//! Members of a stream side by side: gzip members, groups of blocks that refer to nothing before them, zstd frames.
//!
//! Where one begins is guessed by the bytes that all of them begin with, as far ahead as the input is at hand. What was
//! inflated from there is taken only when the stream, read in order, comes to just that place; all else is read in order,
//! so that bytes, errors and their texts are those of one thread.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use memchr::memmem::Finder;

use super::ahead::{Ahead, Pending};
use super::gzip::Gzip;
use super::inflated::Inflated;
use super::input::Input;
use super::part::StreamPart;
use super::place::{Compression, MOST, StreamPlace};
use super::restart::Restart;
use super::room::Reserved;
use super::zstd::Zstd;
use crate::error::Result;

/// Compressed bytes of a part, if it can have them: many small members are one.
const TARGET: usize = 256 << 10;
/// Where the second member must begin at the latest. A stream in which it does not is read in order up to there, so
/// that one that has a single member costs no more than a look at this much of it.
const FIRST: usize = 1 << 20;
/// Parts of one stream that are ahead.
const PARTS: usize = 8;
/// Guesses that must have been wrong one after the other until there are no more.
const MISSES: u32 = 4;
/// Bytes that are looked through at a time.
const SCAN: usize = 128 << 10;

/// What begins a gzip member: its magic and the method (RFC 1952, 2.3.1).
const MEMBER: [u8; 3] = [0x1f, 0x8b, 8];
/// The flags that are reserved there.
const RESERVED_FLAGS: u8 = 0xe0;
/// What stands before blocks that refer to nothing before them, as `pigz -i` writes it: the ends of two stored blocks
/// of no bytes, the second one whole (RFC 1951, 3.2.4).
const INDEPENDENT: [u8; 9] = [0, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff];
/// What begins a zstd frame (RFC 8878, 3.1.1).
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A stream of members, read in order.
pub(super) trait Stream {
    const COMPRESSION: Compression;
    /// Where it stands, if that is where something begins.
    fn place(&self, taken: u64) -> Option<StreamPlace>;
    /// Has it stop there.
    fn stop_at(&mut self, place: Option<StreamPlace>);
    /// Goes on behind a part that was inflated from where it stands; false when that is not what comes.
    fn accept(&mut self, part: &Inflated) -> bool;
    /// Members that have ended.
    fn ended(&self) -> u64;
    /// The next bytes; none where it is to stop; `None` at the end.
    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>>;
}

impl Stream for Gzip {
    const COMPRESSION: Compression = Compression::Gzip;

    fn place(&self, taken: u64) -> Option<StreamPlace> {
        Gzip::place(self, taken)
    }

    fn stop_at(&mut self, place: Option<StreamPlace>) {
        self.stop = place;
    }

    fn accept(&mut self, part: &Inflated) -> bool {
        Gzip::accept(self, part)
    }

    fn ended(&self) -> u64 {
        self.ended
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        Gzip::read(self, input, out)
    }
}

impl Stream for Zstd {
    const COMPRESSION: Compression = Compression::Zstd;

    fn place(&self, taken: u64) -> Option<StreamPlace> {
        Zstd::place(self, taken)
    }

    fn stop_at(&mut self, place: Option<StreamPlace>) {
        self.stop = place;
    }

    fn accept(&mut self, part: &Inflated) -> bool {
        // A frame knows nothing of those before it.
        self.ended += part.ended;
        true
    }

    fn ended(&self) -> u64 {
        self.ended
    }

    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        Zstd::read(self, input, out)
    }
}

/// The parts of one stream that are ahead of where it is read.
pub(super) struct MemberParts {
    ahead: Arc<Ahead>,
    window_log: u32,
    /// Where parts are known to begin.
    pub(super) restart: Option<Restart>,
    /// The first of its points that may begin a part.
    point: usize,
    /// For what is read of the input before anything of it is a part.
    look: Option<Reserved>,
    /// In the order of the stream.
    parts: VecDeque<(StreamPlace, StreamPlace, Pending)>,
    /// Where the next part may begin.
    open: Option<StreamPlace>,
    /// Where it may end, if that was found.
    close: Option<StreamPlace>,
    /// Byte of the stream up to which it was looked for that.
    scanned: u64,
    number: u64,
    misses: u32,
    /// What is handed out now, and how much of it was.
    given: Option<(Inflated, usize)>,
    finders: (Finder<'static>, Finder<'static>),
    frames: Finder<'static>,
}

impl MemberParts {
    pub(super) fn new(ahead: Arc<Ahead>, window_log: u32) -> Self {
        MemberParts {
            ahead,
            window_log,
            restart: None,
            point: 0,
            look: None,
            parts: VecDeque::new(),
            open: None,
            close: None,
            scanned: 0,
            number: 0,
            misses: 0,
            given: None,
            finders: (Finder::new(&MEMBER), Finder::new(&INDEPENDENT)),
            frames: Finder::new(&FRAME),
        }
    }

    /// The next bytes of the stream, which may be none; `None` at the end. `allowed` says whether so many bytes may come
    /// of the input that is taken now: what may pass a bound is read in order, so that the bound says what it always does.
    pub(super) fn read<S: Stream, R: Read>(
        &mut self,
        stream: &mut S,
        input: &mut Input<R>,
        out: &mut [u8],
        allowed: impl Fn(u64, u64) -> bool,
    ) -> Result<Option<usize>> {
        if self.given.is_some() {
            return Ok(Some(self.hand_out(out)));
        }
        self.plan(stream, input);
        while self.parts.front().is_some_and(|(start, ..)| start.taken < input.taken) {
            if let Some((.., pending)) = self.parts.pop_front()
                && !self.ahead.take_back(&pending)
            {
                self.misses += 1;
            }
            self.forget_points();
        }
        if stream.place(input.taken).is_some_and(|place| self.parts.front().is_some_and(|part| part.0 == place))
            && let Some((start, end, pending)) = self.parts.pop_front()
            && !self.ahead.take_back(&pending)
        {
            let done = self.ahead.wait(&pending);
            let is_allowed = done.as_ref().is_none_or(|part| allowed(part.bytes().len() as u64, input.taken));
            match done {
                Some(part) if is_allowed && stream.accept(&part) => {
                    input.take((end.taken - start.taken) as usize);
                    self.misses = 0;
                    self.ahead.count_taken();
                    self.given = Some((part, 0));
                    return Ok(Some(self.hand_out(out)));
                }
                _ => self.misses += 1,
            }
            if is_allowed {
                self.forget_points();
            }
        }
        stream.stop_at(self.parts.front().map(|(start, ..)| *start));
        stream.read(input, out)
    }

    /// What was guessed may be wrong; what was noted is not, unless it is of another stream.
    fn forget_points(&mut self) {
        if self.restart.take().is_some() {
            self.ahead.tell_wrong();
        }
    }

    /// Copies what was inflated ahead.
    fn hand_out(&mut self, out: &mut [u8]) -> usize {
        let Some((part, done)) = &mut self.given else { return 0 };
        let rest = &part.bytes()[*done..];
        let step = rest.len().min(out.len());
        out[..step].copy_from_slice(&rest[..step]);
        *done += step;
        if *done == part.bytes().len()
            && let Some((part, _)) = self.given.take()
        {
            self.ahead.give_back(part.into_space());
        }
        step
    }

    /// Hands over what can be inflated ahead.
    fn plan<S: Stream, R: Read>(&mut self, stream: &S, input: &mut Input<R>) {
        if !self.ahead.is_wanted() || self.misses >= MISSES {
            return;
        }
        if self.look.is_none() {
            self.look = self.ahead.room().reserve(MOST);
        }
        if self.look.is_none() {
            return;
        }
        if self.restart.is_some() {
            return self.plan_known(input);
        }
        while self.parts.len() < PARTS {
            self.open = self.open.filter(|open| open.taken > input.taken);
            let Some(end) = self.mark(S::COMPRESSION, stream.ended() > 0, input) else { return };
            if let Some(start) = self.open {
                let (from, to) = ((start.taken - input.taken) as usize, (end.taken - input.taken) as usize);
                let (compression, window_log) = (S::COMPRESSION, self.window_log);
                let part = || {
                    let bytes = input.ahead(to)[from..to].to_vec();
                    StreamPart { compression, start, end, bits: 0, bytes, window: None, window_log }
                };
                let Some(pending) = self.ahead.hand_over(self.number, part, to - from) else {
                    self.close = Some(end);
                    return;
                };
                self.number += 1;
                self.parts.push_back((start, end, pending));
            }
            self.open = Some(end);
        }
    }

    /// Hands over what stands between restart points, as far as the input is at hand.
    fn plan_known<R: Read>(&mut self, input: &mut Input<R>) {
        let Some(restart) = &self.restart else { return };
        self.point = self.point.max(restart.after(input.taken));
        while self.parts.len() < PARTS {
            let (Some(first), Some(last)) = (restart.point(self.point), restart.point(self.point + 1)) else { return };
            let (start, end, bits) = (first.place, last.place, first.bits);
            let length = (end.taken - start.taken) as usize;
            if length <= MOST && last.given - first.given <= MOST as u64 {
                let (from, to) = ((start.taken - input.taken) as usize, (end.taken - input.taken) as usize);
                if input.ahead(to).len() < to {
                    return;
                }
                let window = if start.body { restart.window(first) } else { None };
                if start.body && window.is_none() {
                    return;
                }
                let (compression, window_log) = (Compression::Gzip, self.window_log);
                let part = || {
                    let bytes = input.ahead(to)[from..to].to_vec();
                    StreamPart { compression, start, end, bits, bytes, window, window_log }
                };
                let Some(pending) = self.ahead.hand_over(self.number, part, length) else { return };
                self.number += 1;
                self.parts.push_back((start, end, pending));
            }
            self.point += 1;
        }
    }

    /// The next place where something seems to begin, at least a part's length behind the last one, as far as the input
    /// is at hand. `several` says whether members are known to follow each other here.
    fn mark<R: Read>(&mut self, compression: Compression, several: bool, input: &mut Input<R>) -> Option<StreamPlace> {
        let base = self.open.map_or(input.taken, |open| open.taken);
        if let Some(close) = self.close.take()
            && close.taken > base
        {
            return Some(close);
        }
        loop {
            let from = self.scanned.max(base + TARGET as u64);
            let limit = if several || self.open.is_some() { base + MOST as u64 } else { FIRST as u64 };
            if from >= limit {
                self.open = None;
                return None;
            }
            let (start, end) = ((from - input.taken) as usize, (limit - input.taken) as usize);
            let bytes = input.ahead(start + SCAN);
            let bytes = &bytes[..bytes.len().min(end)];
            if bytes.len() < start + INDEPENDENT.len() {
                return None;
            }
            let found = match compression {
                Compression::Zstd => self.frames.find(&bytes[start..]).map(|at| (at, false)),
                _ => self.gzip_mark(&bytes[start..]),
            };
            if let Some((at, body)) = found {
                self.scanned = from + at as u64;
                return Some(StreamPlace { taken: self.scanned, count: 0, body });
            }
            // What may be the beginning of a mark is looked at again.
            self.scanned = from + (bytes.len() - start - INDEPENDENT.len() + 1) as u64;
        }
    }

    /// Where a member, or a block that refers to nothing before it, seems to begin.
    fn gzip_mark(&self, bytes: &[u8]) -> Option<(usize, bool)> {
        let (members, blocks) = &self.finders;
        let is_header = |at: &usize| bytes.get(at + 3).is_some_and(|flags| flags & RESERVED_FLAGS == 0);
        let member = members.find_iter(bytes).find(is_header);
        let block = blocks.find(&bytes[..member.unwrap_or(bytes.len())]).map(|at| at + INDEPENDENT.len());
        block.map(|at| (at, true)).or(member.map(|at| (at, false)))
    }
}

impl Drop for MemberParts {
    fn drop(&mut self) {
        self.ahead.clear();
    }
}
