//! Reading an archive as a stream: entries in the order in which they stand, their data borrowed from the input.

use std::io::BufRead;

use super::blocks::{Blocks, padding};
use super::header::{BLOCK, Header, is_zero};
use super::member::{Body, Extensions};
use super::pax::PaxRecords;
use super::sparse::{self, DataMap, PaxMap, Segment, SparseMap};
use crate::entry::{Entry, Kind, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// A piece of a file, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// The next bytes, never empty, in the input's own buffer.
    Bytes(&'a [u8]),
    /// As many zeros, of a sparse file, never none.
    Hole(u64),
}

/// A reader of v7, ustar, pax and GNU archives. The table of fates in `docs/tar.md` says what it does with each kind of
/// header.
///
/// ```
/// use ocifast_core::{limits::Limits, tar};
///
/// let mut reader = tar::Reader::new(&[0; 1024][..], Limits::default());
/// assert!(reader.next_entry()?.is_none());
/// # Ok::<(), ocifast_core::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    blocks: Blocks<R>,
    limits: Limits,
    state: State,
    /// Stored bytes of the entry not yet read, and the zeros after them.
    stored: u64,
    padding: u64,
    /// Stored bytes before the next hole.
    run: u64,
    map: Option<SparseMap>,
    /// Bytes of all sparse files so far, with their holes.
    apparent: u64,
    globals: PaxRecords,
    shared: Xattrs,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    /// An error was returned: what follows in the input means nothing.
    Failed,
}

impl<R: BufRead> Reader<R> {
    /// A reader of the archive that `inner` is at the start of.
    pub fn new(inner: R, limits: Limits) -> Self {
        Reader {
            blocks: Blocks::new(inner),
            limits,
            state: State::Reading,
            stored: 0,
            padding: 0,
            run: 0,
            map: None,
            apparent: 0,
            globals: PaxRecords::default(),
            shared: None,
            dropped: 0,
        }
    }

    /// The next entry; what is left of the data of the one before is skipped. `None` after the end blocks, or where
    /// the input ends without them; bytes after the end blocks stay in the input.
    ///
    /// # Errors
    /// `tar_invalid` for an archive that is damaged, ambiguous or ends early, `entry_refused` for a type that is not
    /// one of an image, `limit_exceeded` past the limits; whatever the input fails with. Nothing can be read after
    /// an error.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.usable()?;
        if self.state == State::Ended {
            return Ok(None);
        }
        let result = self.skip_data().and_then(|()| self.read_entry());
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    /// The next piece of the current entry's data; `None` at its end, and for entries without data. The pieces of a
    /// file are together as long as its size.
    ///
    /// # Errors
    /// `tar_invalid` when the input ends early; whatever the input fails with.
    pub fn next_data(&mut self) -> Result<Option<Data<'_>>> {
        self.usable()?;
        if self.run == 0 {
            match self.map.as_mut().and_then(SparseMap::next_segment) {
                None => return Ok(None),
                Some(Segment::Hole(length)) => return Ok(Some(Data::Hole(length))),
                Some(Segment::Data(length)) => self.run = length,
            }
        }
        let bytes = self.blocks.lend(self.run).inspect_err(|_| self.state = State::Failed)?;
        self.run -= bytes.len() as u64;
        self.stored -= bytes.len() as u64;
        Ok(Some(Data::Bytes(bytes)))
    }

    /// How many pax records were dropped so far: those that have no place in a tree, like names of users. Volume labels
    /// count as well.
    pub fn dropped_records(&self) -> u64 {
        self.dropped
    }

    /// The input, at the first byte that was not read.
    pub fn into_inner(self) -> R {
        self.blocks.into_inner()
    }

    fn usable(&self) -> Result<()> {
        if self.state == State::Failed {
            return Err(invalid("the archive was found damaged before"));
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<()> {
        self.blocks.skip(self.stored + self.padding)?;
        (self.stored, self.padding, self.run, self.map) = (0, 0, 0, None);
        Ok(())
    }

    /// Reads headers up to and including an entry's own. An error names the offset of the header that it is about.
    fn read_entry(&mut self) -> Result<Option<Entry>> {
        let start = self.blocks.position();
        let mut extensions = Extensions::default();
        loop {
            let at = self.blocks.position();
            let located = |mut error: Error| {
                error.context.offset.get_or_insert(at);
                error
            };
            let block = match self.blocks.next().map_err(located)? {
                Some(block) if !is_zero(block) => *block,
                end => {
                    let zeros = end.is_some();
                    return self.end(zeros, extensions.is_empty()).map(|()| None).map_err(located);
                }
            };
            let header = Header::verify(&block).map_err(located)?;
            match header.type_flag() {
                b'x' | b'X' | b'g' | b'L' | b'K' => self.extension(&header, &mut extensions).map_err(located)?,
                b'V' => self.volume_label(&header, &extensions).map_err(located)?,
                _ => {
                    let entry = self.entry(&block, &header, extensions, start);
                    return entry.map(Some).map_err(located);
                }
            }
        }
    }

    /// At the end of the input or after a block of zeros.
    fn end(&mut self, zeros: bool, complete: bool) -> Result<()> {
        if !complete {
            return Err(invalid("the archive ends after an extension header, before its entry"));
        }
        // Some archives have no end blocks, some only one.
        if zeros && self.blocks.next()?.is_some_and(|block| !is_zero(block)) {
            return Err(invalid("a single block of zeros stands before more headers"));
        }
        Ok(())
    }

    /// Reads an extension header's data.
    fn extension(&mut self, header: &Header<'_>, extensions: &mut Extensions) -> Result<()> {
        let size = header.size()?;
        let bytes = self.blocks.extension(size, &self.limits)?;
        // Bounded by the limit, or nothing would have been read.
        let size = size as usize;
        let flag = header.type_flag();
        if matches!(flag, b'L' | b'K') {
            return extensions.gnu(flag, &bytes, size, &self.limits);
        }
        let records = PaxRecords::parse(&bytes[..size], &self.limits)?;
        self.dropped += records.dropped;
        if flag != b'g' {
            return extensions.pax(records);
        }
        if !extensions.is_empty() {
            return Err(invalid("a global pax header stands between an extension header and its entry"));
        }
        self.globals.merge_global(&records)
    }

    /// Passes over the name that GNU tar gives an archive (its manual, "Including a Label in the Archive").
    fn volume_label(&mut self, header: &Header<'_>, extensions: &Extensions) -> Result<()> {
        if !extensions.is_empty() || header.size()? > 0 {
            return Err(invalid("a GNU volume label has data, or an extension header before it"));
        }
        self.dropped += 1;
        Ok(())
    }

    /// The entry of a header, ready for its data.
    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header<'_>,
        extensions: Extensions,
        offset: u64,
    ) -> Result<Entry> {
        let format = header.format()?;
        let plan = extensions.resolve(header, format, &self.globals, &mut self.shared, &self.limits);
        let mut plan = plan.map_err(|error| error.at_entry(&header.path(format), offset))?;
        let size = self.begin(block, plan.body).map_err(|error| error.at_entry(&plan.path, offset))?;
        if let Kind::File { size: slot } = &mut plan.kind {
            *slot = size;
        }
        Ok(Entry { path: plan.path, kind: plan.kind, metadata: plan.metadata, offset })
    }

    /// Makes ready for the data and returns the file's size.
    fn begin(&mut self, block: &[u8; BLOCK], body: Body) -> Result<u64> {
        let (extents, size, stored) = match body {
            Body::None => return Ok(0),
            Body::Plain { size } => {
                (self.stored, self.padding, self.run) = (size, padding(size), size);
                return Ok(size);
            }
            Body::OldSparse { stored } => {
                let mut extents = Vec::new();
                let mut more = sparse::old_gnu(block, true, &mut extents, &self.limits)?;
                while more {
                    more = sparse::old_gnu(self.blocks.expect()?, false, &mut extents, &self.limits)?;
                }
                (extents, sparse::old_gnu_size(block)?, stored)
            }
            Body::PaxSparse { stored, records } => match records.resolve()? {
                PaxMap::Records { extents, size } => (extents, size, stored),
                PaxMap::Data { size } => {
                    let (mut map, mut left) = (DataMap::default(), stored);
                    loop {
                        left = left
                            .checked_sub(BLOCK as u64)
                            .ok_or_else(|| invalid("the sparse map does not end within the entry's data"))?;
                        if map.block(self.blocks.expect()?, &self.limits)? {
                            break (map.extents, size, left);
                        }
                    }
                }
            },
        };
        self.map = Some(SparseMap::new(extents, size, stored)?);
        // A hole costs nothing in the archive; an output without holes has a zero for each of its bytes.
        self.apparent = self.apparent.saturating_add(size);
        if self.apparent > self.limits.layer_bytes {
            let (apparent, most) = (self.apparent, self.limits.layer_bytes);
            let message = format!("{apparent} bytes of sparse files and their holes are more than {most}");
            return Err(Error::new(Code::LimitExceeded, message));
        }
        (self.stored, self.padding) = (stored, padding(stored));
        Ok(size)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::TarInvalid, message)
}
