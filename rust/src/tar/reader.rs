//! Reading an archive as a stream: entries in the order in which they stand, their data borrowed from the input.

use std::io::{self, BufRead};
use std::sync::Arc;

use super::header::{BLOCK, Format, Header, is_zero, path_limit};
use super::pax::Records;
use super::sparse::{self, DataMap, Map, PaxMap, Segment};
use crate::entry::{Entry, Kind, Metadata, Mtime, Xattrs};
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

/// A reader of v7, ustar, pax and GNU archives. What it does with each thing that can stand in a header is told by
/// the table of fates in `docs/tar.md`.
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
    inner: R,
    limits: Limits,
    state: State,
    /// Bytes of the archive taken from `inner`.
    position: u64,
    /// Bytes of `inner`'s buffer lent to the caller; taken when it comes back.
    lent: usize,
    /// Stored bytes of the entry not yet taken.
    stored: u64,
    /// Zeros after them.
    padding: u64,
    /// Stored bytes before the next hole.
    run: u64,
    map: Option<Map>,
    globals: Records,
    /// The attributes of an earlier entry, to share them with entries that have the same.
    shared: Xattrs,
    dropped: u64,
    block: Box<[u8; BLOCK]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    /// An error was returned: what follows in the input means nothing.
    Failed,
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    pax: Option<Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    /// A reader of the archive that `inner` is at the start of.
    pub fn new(inner: R, limits: Limits) -> Self {
        Reader {
            inner,
            limits,
            state: State::Reading,
            position: 0,
            lent: 0,
            stored: 0,
            padding: 0,
            run: 0,
            map: None,
            globals: Records::default(),
            shared: None,
            dropped: 0,
            block: Box::new([0; BLOCK]),
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
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Failed => return Err(invalid("the archive was found damaged before this entry")),
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
        self.take_lent();
        if self.state != State::Reading {
            return Ok(None);
        }
        if self.run == 0 {
            match self.map.as_mut().and_then(Map::next_segment) {
                None => return Ok(None),
                Some(Segment::Hole(length)) => return Ok(Some(Data::Hole(length))),
                Some(Segment::Data(length)) => self.run = length,
            }
        }
        let available = match fill(&mut self.inner) {
            Ok(0) => Err(invalid("the archive ends inside the data of an entry")),
            other => other,
        };
        let available = available.inspect_err(|_| self.state = State::Failed)?;
        self.lent = usize::try_from(self.run).map_or(available, |run| run.min(available));
        self.run -= self.lent as u64;
        self.stored -= self.lent as u64;
        let bytes = self.inner.fill_buf().map_err(input_error)?;
        Ok(Some(Data::Bytes(&bytes[..self.lent])))
    }

    /// How many pax records were dropped so far: those that have no place in a tree, like names of users.
    pub fn dropped_records(&self) -> u64 {
        self.dropped
    }

    /// The input, at the first byte that was not read.
    pub fn into_inner(mut self) -> R {
        self.take_lent();
        self.inner
    }

    fn take_lent(&mut self) {
        self.inner.consume(self.lent);
        self.position += self.lent as u64;
        self.lent = 0;
    }

    fn skip_data(&mut self) -> Result<()> {
        self.take_lent();
        let mut left = self.stored + self.padding;
        while left > 0 {
            let available = fill(&mut self.inner)?;
            if available == 0 {
                return Err(invalid("the archive ends inside the data of an entry"));
            }
            let step = usize::try_from(left).map_or(available, |left| left.min(available));
            self.inner.consume(step);
            self.position += step as u64;
            left -= step as u64;
        }
        (self.stored, self.padding, self.run, self.map) = (0, 0, 0, None);
        Ok(())
    }

    /// Reads the next block into `self.block`; false where the input ends before it.
    fn read_block(&mut self) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            if fill(&mut self.inner)? == 0 {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(invalid("the archive ends inside a header"));
            }
            let buffer = self.inner.fill_buf().map_err(input_error)?;
            let step = buffer.len().min(BLOCK - filled);
            self.block[filled..filled + step].copy_from_slice(&buffer[..step]);
            self.inner.consume(step);
            self.position += step as u64;
            filled += step;
        }
        Ok(true)
    }

    fn read_entry(&mut self) -> Result<Option<Entry>> {
        let start = self.position;
        let mut extensions = Extensions::default();
        loop {
            let at = self.position;
            let located = |mut error: Error| {
                error.context.offset.get_or_insert(at);
                error
            };
            if !self.read_block().map_err(located)? || is_zero(&self.block) {
                if at != start {
                    return Err(located(invalid("the archive ends after an extension header, before its entry")));
                }
                if self.position != at && self.read_block().map_err(located)? && !is_zero(&self.block) {
                    return Err(located(invalid("a single block of zeros stands before more headers")));
                }
                return Ok(None);
            }
            let block = *self.block;
            let header = Header::verify(&block).map_err(located)?;
            let flag = header.type_flag();
            if !matches!(flag, b'x' | b'X' | b'g' | b'L' | b'K') {
                let format = header.format().map_err(located)?;
                let name = header.path(format);
                let entry = self.member(&block, &header, format, extensions, start);
                return entry.map(Some).map_err(|error| error.at_entry(&name, start));
            }
            self.extension(flag, &header, &mut extensions).map_err(located)?;
        }
    }

    /// Reads one extension header's data.
    fn extension(&mut self, flag: u8, header: &Header<'_>, extensions: &mut Extensions) -> Result<()> {
        let bytes = self.extension_data(header.size()?)?;
        match flag {
            b'g' => {
                if extensions.pax.is_some() || extensions.path.is_some() || extensions.link.is_some() {
                    return Err(invalid("a global pax header stands between an extension header and its entry"));
                }
                let later = Records::parse(&bytes, &self.limits)?;
                self.dropped += later.dropped;
                self.globals.merge_global(later, &self.limits)
            }
            b'L' | b'K' => {
                let name = long_name(&bytes, &self.limits)?;
                let slot = if flag == b'L' { &mut extensions.path } else { &mut extensions.link };
                match slot.replace(name) {
                    Some(_) => Err(invalid("two GNU long names for one entry")),
                    None => Ok(()),
                }
            }
            _ => {
                let records = Records::parse(&bytes, &self.limits)?;
                self.dropped += records.dropped;
                match extensions.pax.replace(records) {
                    Some(_) => Err(invalid("two pax headers for one entry")),
                    None => Ok(()),
                }
            }
        }
    }

    /// Reads the data of an extension header. Memory grows with what arrives, not with what the header claims.
    fn extension_data(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > self.limits.extension_bytes as u64 {
            let message = format!("an extension header of {size} bytes is longer than {}", self.limits.extension_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            if !self.read_block()? {
                return Err(invalid("the archive ends inside an extension header"));
            }
            let step = (size - bytes.len() as u64).min(BLOCK as u64) as usize;
            bytes.extend_from_slice(&self.block[..step]);
        }
        Ok(bytes)
    }

    /// Brings a header and its extensions together, and makes ready for its data.
    fn member(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header<'_>,
        format: Format,
        extensions: Extensions,
        offset: u64,
    ) -> Result<Entry> {
        let mut pax = extensions.pax.unwrap_or_default();
        if extensions.path.is_some() && pax.path.is_some() || extensions.link.is_some() && pax.link.is_some() {
            return Err(invalid("the entry has both a GNU long name and a pax path"));
        }
        let sparse = pax.sparse.take();
        let sparse_name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name.or(pax.path.take()).or(extensions.path).unwrap_or_else(|| header.path(format));
        if path.is_empty() || path.contains(&0) {
            return Err(invalid("the entry's path is empty or has a NUL byte"));
        }
        path_limit(&path, &self.limits)?;
        let target = pax.link.take().or(extensions.link);
        let metadata = self.metadata(header, &mut pax)?;

        let flag = header.type_flag();
        let regular = matches!(flag, 0 | b'0' | b'7' | b'S');
        let size = match pax.size {
            Some(size) => size,
            // A size in the header of a type without data means nothing (POSIX, ustar); so does a hard link's, as
            // GNU tar has it.
            None if !regular => 0,
            None => header.size()?,
        };
        if !regular && size > 0 {
            return Err(invalid(format!("the entry is of a type without data and has a pax size of {size}")));
        }
        if sparse.is_some() && !matches!(flag, 0 | b'0' | b'7') {
            return Err(invalid("sparse records on an entry that is not a regular file"));
        }
        let kind = match flag {
            0 | b'0' | b'7' | b'S' if path.ends_with(b"/") => {
                // The way of archives before ustar, and of some after it.
                if size > 0 || sparse.is_some() || flag == b'S' {
                    return Err(invalid("the entry's name is one of a directory, and it has data"));
                }
                Kind::Directory
            }
            0 | b'0' | b'7' => Kind::File { size: self.begin_file(size, sparse)? },
            b'S' => Kind::File { size: self.begin_old_sparse(block, size)? },
            b'1' | b'2' => {
                let target = target.unwrap_or_else(|| header.link().to_vec());
                path_limit(&target, &self.limits)?;
                if target.is_empty() {
                    return Err(invalid("the link has no target"));
                }
                if flag == b'1' { Kind::HardLink { target } } else { Kind::Symlink { target } }
            }
            b'3' | b'4' => {
                let (major, minor) = pax.device(header.dev_major()?, header.dev_minor()?)?;
                if flag == b'3' { Kind::CharDevice { major, minor } } else { Kind::BlockDevice { major, minor } }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(refused_type(flag)),
        };
        Ok(Entry { path, kind, metadata, offset })
    }

    fn metadata(&mut self, header: &Header<'_>, pax: &mut Records) -> Result<Metadata> {
        let uid = match pax.uid.or(self.globals.uid).flatten() {
            Some(uid) => uid,
            None => header.uid()?,
        };
        let gid = match pax.gid.or(self.globals.gid).flatten() {
            Some(gid) => gid,
            None => header.gid()?,
        };
        let mtime = match pax.mtime.or(self.globals.mtime).flatten() {
            Some(mtime) => mtime,
            None => Mtime { seconds: header.mtime()?, nanoseconds: 0 },
        };
        for (name, value) in &self.globals.xattrs {
            if !pax.xattrs.contains_key(name) {
                pax.xattrs.insert(name.clone(), value.clone());
            }
        }
        let xattrs = if pax.xattrs.is_empty() {
            None
        } else if self.shared.as_deref() == Some(&pax.xattrs) {
            self.shared.clone()
        } else {
            self.shared = Some(Arc::new(std::mem::take(&mut pax.xattrs)));
            self.shared.clone()
        };
        Ok(Metadata { mode: header.mode()?, uid, gid, mtime, xattrs })
    }

    /// Makes ready for `size` stored bytes; returns the file's size.
    fn begin_file(&mut self, size: u64, sparse: Option<sparse::Records>) -> Result<u64> {
        self.stored = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        match sparse.map(sparse::Records::resolve).transpose()? {
            None => {
                self.run = size;
                Ok(size)
            }
            Some(PaxMap::Records { extents, size: real }) => {
                self.map = Some(Map::new(extents, real, size)?);
                Ok(real)
            }
            Some(PaxMap::Data { size: real }) => {
                let mut map = DataMap::default();
                loop {
                    if self.stored < BLOCK as u64 {
                        return Err(invalid("the sparse map does not end within the entry's data"));
                    }
                    if !self.read_block()? {
                        return Err(invalid("the archive ends inside a sparse map"));
                    }
                    self.stored -= BLOCK as u64;
                    if map.block(&self.block, &self.limits)? {
                        break;
                    }
                }
                self.map = Some(Map::new(map.extents, real, self.stored)?);
                Ok(real)
            }
        }
    }

    fn begin_old_sparse(&mut self, block: &[u8; BLOCK], size: u64) -> Result<u64> {
        let real = sparse::old_gnu_size(block)?;
        let mut extents = Vec::new();
        let mut more = sparse::old_gnu(block, true, &mut extents, &self.limits)?;
        while more {
            if !self.read_block()? {
                return Err(invalid("the archive ends inside a sparse map"));
            }
            more = sparse::old_gnu(&self.block, false, &mut extents, &self.limits)?;
        }
        self.map = Some(Map::new(extents, real, size)?);
        self.stored = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(real)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::TarInvalid, message)
}

/// Bytes at hand in the input's buffer, 0 at its end.
fn fill(inner: &mut impl BufRead) -> Result<usize> {
    loop {
        match inner.fill_buf() {
            Ok(buffer) => return Ok(buffer.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(input_error(error)),
        }
    }
}

/// An input that is itself of this crate fails with our own error inside the system's.
fn input_error(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("reading the archive", &error))
}

/// GNU long names end with a NUL that counts; whatever came after it, other readers would not see.
fn long_name(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (name, rest) = bytes.split_at(end);
    if name.is_empty() || rest.iter().any(|&byte| byte != 0) {
        return Err(invalid("a GNU long name is empty or goes on after a NUL byte"));
    }
    path_limit(name, limits)?;
    Ok(name.to_vec())
}

fn refused_type(flag: u8) -> Error {
    let name = match flag {
        b'D' => "GNU directory listing of an incremental archive",
        b'M' => "GNU continuation of another volume's file",
        b'N' => "old GNU long name",
        b'V' => "GNU volume label",
        b'A' | b'E' | b'I' => "Solaris or star entry",
        _ => "unknown entry",
    };
    let message = format!("an entry of type '{}' ({name}) has no place in an image", flag.escape_ascii());
    Error::new(Code::EntryRefused, message)
}
