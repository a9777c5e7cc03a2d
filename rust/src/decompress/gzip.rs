//! gzip (RFC 1952), any number of members.

use std::io::Read;

use super::inflate::{AHEAD, Inflate, Pause, WINDOW};
use super::inflated::{Inflated, MemberEnd, Sum};
use super::input::{Input, garbage, invalid};
use super::place::StreamPlace;
use super::restart::Recorder;
use crate::error::{Code, Error, Result};

/// One gzip member after another.
pub(super) struct Gzip {
    inflate: Inflate,
    /// The end of what the member gave before, as far as distances reach, in a buffer of twice that.
    window: Box<[u8]>,
    held: usize,
    sum: Sum,
    part: Part,
    /// Where to stop, because what follows may be there already.
    pub(super) stop: Option<StreamPlace>,
    /// Members that have ended.
    pub(super) ended: u64,
    /// What notes restart points, if they are to be noted.
    pub(super) recorder: Option<Recorder>,
    /// The member began elsewhere, so that its checksum is not known here.
    foreign: bool,
    /// What was seen of such a member, once it has ended.
    pub(super) head: Option<MemberEnd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Body,
    /// Between members: the end, another member, or zeros to the end.
    Between,
}

impl Gzip {
    pub(super) fn new() -> Self {
        Gzip {
            inflate: Inflate::new(),
            window: vec![0; 2 * WINDOW].into(),
            held: 0,
            sum: Sum::default(),
            part: Part::Header,
            stop: None,
            ended: 0,
            recorder: None,
            foreign: false,
            head: None,
        }
    }

    /// In the middle of a stream, which has given `window` before, as far as distances reach; of a block that begins
    /// inside a byte, `bits` are what is left of that.
    pub(super) fn begin_at(&mut self, place: StreamPlace, bits: u8, window: &[u8]) {
        (self.held, self.stop, self.head, self.foreign) = (0, None, None, place.body);
        self.sum = Sum::default();
        self.part = Part::Header;
        if place.body {
            self.part = Part::Body;
            self.inflate.begin_at_block(bits, place.count);
            self.keep(window);
        }
    }

    /// Where it stands, if that is where a member's header or a block's comes. `taken` bytes of the input are.
    pub(super) fn place(&self, taken: u64) -> Option<StreamPlace> {
        match self.part {
            Part::Header | Part::Between => Some(StreamPlace { taken, count: 0, body: false }),
            Part::Body => self.inflate.at_block().map(|(_, count)| StreamPlace { taken, count, body: true }),
        }
    }

    /// What the member has given, as far as distances reach.
    pub(super) fn window(&self) -> &[u8] {
        &self.window[self.held.saturating_sub(WINDOW)..self.held]
    }

    /// What was given of the member so far.
    pub(super) fn sum(&self) -> &Sum {
        &self.sum
    }

    /// Goes on behind what was inflated elsewhere from where this stands. False, and nothing is changed, when that cannot
    /// be what comes here: of the bytes of a block, or because a member's checksum shows it.
    pub(super) fn accept(&mut self, part: &Inflated) -> bool {
        let (start, end) = (part.start, part.end);
        let mut sum = Sum::default();
        if start.body {
            if self.inflate.at_block() != Some((part.bits.0, start.count)) {
                return false;
            }
            if part.window.as_deref().is_some_and(|window| window != self.window()) {
                return false;
            }
            sum = self.sum.clone();
            if let Some(MemberEnd { sum: head, stated }) = &part.head {
                let sum = sum.then(head);
                if (sum.crc.finalize(), sum.size) != *stated {
                    return false;
                }
            }
        }
        self.ended += part.ended;
        self.part = Part::Between;
        if end.body {
            let here = start.body && part.ended == 0;
            self.sum = if here { sum.then(&part.sum) } else { part.sum.clone() };
            self.part = Part::Body;
            self.inflate.begin_at_block(part.bits.1, end.count);
            if !here {
                self.held = 0;
            }
            // Of a member that began inside of it only that member's bytes can be reached.
            let bytes = part.bytes();
            self.keep(&bytes[bytes.len() - (part.sum.size as usize).min(bytes.len())..]);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.count(part.bytes().len());
        }
        self.note(end.taken);
        true
    }

    /// Whether the next header is a restart point.
    fn is_due(&self) -> bool {
        self.recorder.as_ref().is_some_and(Recorder::is_due)
    }

    /// Notes a restart point, if one is due and this is a place for it.
    fn note(&mut self, taken: u64) {
        if self.is_due()
            && let Some(place) = self.place(taken)
            && let Some(mut recorder) = self.recorder.take()
        {
            let bits = self.inflate.at_block().filter(|_| place.body);
            recorder.add(place, bits.map_or(0, |(bits, _)| bits), if place.body { self.window() } else { &[] });
            self.recorder = Some(recorder);
        }
    }

    /// Takes bytes that the member has given into its window.
    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(WINDOW)..];
        let old = self.held.min(WINDOW - bytes.len());
        self.window.copy_within(self.held - old..self.held, 0);
        self.window[old..old + bytes.len()].copy_from_slice(bytes);
        self.held = old + bytes.len();
    }

    /// The next bytes, straight into `out`, which is not empty; none where it is to stop; `None` at the end.
    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            self.note(input.taken);
            if self.stop.is_some() && self.stop == self.place(input.taken) {
                return Ok(Some(0));
            }
            match self.part {
                Part::Header => {
                    header(input)?;
                    self.inflate.reset();
                    self.held = 0;
                    self.sum = Sum::default();
                    self.part = Part::Body;
                }
                Part::Body => {
                    let produced = self.body(input, out)?;
                    if produced > 0 {
                        return Ok(Some(produced));
                    }
                }
                Part::Between => match input.at_least(2)? {
                    [] => return Ok(None),
                    [0x1f, 0x8b, ..] => self.part = Part::Header,
                    // Tapes were padded with zeros; gzip lets them be.
                    [0, ..] => return zeros(input).map(|()| None),
                    other => return Err(garbage("gzip", other)),
                },
            }
        }
    }

    /// Inflates into `out` until it is full, the member ends or it is to stop; then compares the member's trailer.
    fn body<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        let mut produced = 0;
        let mut direct = self.held == 0;
        while produced < out.len() && !self.inflate.done() {
            let stop = self.stop.filter(|stop| stop.body && stop.taken >= input.taken);
            let pause = match stop {
                _ if self.is_due() => Pause::Next,
                Some(stop) => Pause::At((stop.taken - input.taken) as usize, stop.count),
                None => Pause::Never,
            };
            if pause != Pause::Never
                && self.place(input.taken).is_some_and(|place| pause == Pause::Next || stop == Some(place))
            {
                break;
            }
            if direct {
                produced = inflate(&mut self.inflate, input, pause, out, produced)?;
                continue;
            }
            // Distances reach back before `out`: inflated behind the window, until `out` has all that they can reach.
            if self.held == self.window.len() {
                self.window.copy_within(WINDOW.., 0);
                self.held = WINDOW;
            }
            let room = self.window.len().min(self.held + out.len() - produced);
            let end = inflate(&mut self.inflate, input, pause, &mut self.window[..room], self.held)?;
            let step = end - self.held;
            out[produced..produced + step].copy_from_slice(&self.window[self.held..end]);
            (self.held, produced) = (end, produced + step);
            direct = produced >= WINDOW;
        }
        self.sum.update(&out[..produced]);
        if let Some(recorder) = &mut self.recorder {
            recorder.count(produced);
        }
        if self.inflate.done() {
            self.trailer(input)?;
            self.part = Part::Between;
            self.ended += 1;
        } else if direct {
            self.held = produced.min(WINDOW);
            self.window[..self.held].copy_from_slice(&out[produced - self.held..produced]);
        }
        Ok(produced)
    }

    fn trailer<R: Read>(&mut self, input: &mut Input<R>) -> Result<()> {
        let Some(&[a, b, c, d, e, f, g, h]) = input.at_least(8)?.first_chunk::<8>() else {
            return Err(invalid("the gzip stream ends inside a trailer"));
        };
        input.take(8);
        let (crc, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if std::mem::take(&mut self.foreign) {
            self.head = Some(MemberEnd { sum: self.sum.clone(), stated: (crc, size) });
            return Ok(());
        }
        let seen = self.sum.crc.clone().finalize();
        if crc != seen {
            let (expected, seen) = (format!("{crc:08x}"), format!("{seen:08x}"));
            return Err(Error::mismatch(Code::CompressionInvalid, "the gzip stream's CRC-32", expected, seen));
        }
        if size != self.sum.size {
            return Err(Error::mismatch(Code::CompressionInvalid, "the gzip stream's size", size, self.sum.size));
        }
        Ok(())
    }
}

/// Inflates what is at hand to `out[at..]`; returns where the written bytes end.
fn inflate<R: Read>(
    inflate: &mut Inflate,
    input: &mut Input<R>,
    pause: Pause,
    out: &mut [u8],
    at: usize,
) -> Result<usize> {
    let compressed = input.at_least(AHEAD)?;
    let all = compressed.len() < AHEAD;
    let (taken, end) =
        inflate.run(compressed, all, pause, out, at).map_err(|fault| invalid(format!("the gzip stream {fault}")))?;
    input.take(taken);
    Ok(end)
}

/// Reads a member's header (RFC 1952, 2.3).
fn header<R: Read>(input: &mut Input<R>) -> Result<()> {
    let mut crc = crc32fast::Hasher::new();
    let mut byte = || -> Result<u8> {
        let Some(&byte) = input.fill()?.first() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(1);
        crc.update(&[byte]);
        Ok(byte)
    };
    let mut fixed = [0; 10];
    for slot in &mut fixed {
        *slot = byte()?;
    }
    let [_, _, method, flags, ..] = fixed;
    if method != 8 {
        return Err(invalid(format!("the gzip stream has the unknown method {method}")));
    }
    if flags & 0xe0 != 0 {
        return Err(invalid(format!("the gzip stream has reserved flags: {flags:#04x}")));
    }
    if flags & 4 != 0 {
        let length = u16::from_le_bytes([byte()?, byte()?]);
        for _ in 0..length {
            byte()?;
        }
    }
    // Name and comment, each ended by a NUL.
    for flag in [8, 16] {
        while flags & flag != 0 && byte()? != 0 {}
    }
    if flags & 2 != 0 {
        let [low, high, ..] = crc.finalize().to_le_bytes();
        let seen = [low, high];
        let Some(&written) = input.at_least(2)?.first_chunk::<2>() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(2);
        if written != seen {
            return Err(invalid("the gzip header's checksum is wrong"));
        }
    }
    Ok(())
}

fn zeros<R: Read>(input: &mut Input<R>) -> Result<()> {
    loop {
        let bytes = input.fill()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            return Err(garbage("gzip", &bytes[at..]));
        }
        let count = bytes.len();
        input.take(count);
    }
}
