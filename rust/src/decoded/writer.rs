//! Writing the table of a layer, entry by entry while the layer is decoded.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::form::{self, FORM, HEADER, SEMANTICS, TableHeader, put, put_bytes, zigzag};
use super::overlay::Reason;
use super::reader::checksum;
use crate::contents::Content;
use crate::digest::Digest;
use crate::entry::{Entry, Kind, Metadata, Xattrs};
use crate::error::{Error, Result};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 18;

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot write the table of a layer", &error)
}

/// A table on its way: entries only, until [`TableWriter::seal`] adds what makes it one.
pub struct TableWriter {
    file: File,
    pending: Vec<u8>,
    written: u64,
    entries: u64,
    offset: u64,
    last: Xattrs,
}

impl TableWriter {
    /// Writes to an empty file that is open for reading as well.
    pub fn new(file: File) -> Self {
        TableWriter { file, pending: Vec::new(), written: HEADER as u64, entries: 0, offset: 0, last: None }
    }

    /// Adds an entry; `content` is where [`crate::blocks`] has put a regular file's.
    ///
    /// # Errors
    /// `io_error`.
    pub fn add(&mut self, entry: &Entry, content: Option<&Content>) -> Result<()> {
        let Entry { path, kind, metadata, offset } = entry;
        let out = &mut self.pending;
        let sparse = content.and_then(|content| content.extents.as_ref());
        let (number, target, numbers): (u8, Option<&[u8]>, [Option<u64>; 2]) = match kind {
            Kind::File { size } => (form::FILE, None, [Some(*size), content.map(|content| content.position)]),
            Kind::Directory => (form::DIRECTORY, None, [None; 2]),
            Kind::Symlink { target } => (form::SYMLINK, Some(target), [None; 2]),
            Kind::HardLink { target } => (form::HARD_LINK, Some(target), [None; 2]),
            Kind::CharDevice { major, minor } => {
                (form::CHAR_DEVICE, None, [*major, *minor].map(|part| Some(part.into())))
            }
            Kind::BlockDevice { major, minor } => {
                (form::BLOCK_DEVICE, None, [*major, *minor].map(|part| Some(part.into())))
            }
            Kind::Fifo => (form::FIFO, None, [None; 2]),
        };
        let Metadata { mode, uid, gid, mtime, xattrs } = metadata;
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.push(number | flag(xattrs.is_some(), form::XATTRS) | flag(sparse.is_some(), form::SPARSE));
        put_bytes(out, path);
        // Offsets ascend; wherever they do not, the difference wraps around and comes back.
        put(out, offset.wrapping_sub(self.offset));
        self.offset = *offset;
        for number in [(*mode).into(), (*uid).into(), (*gid).into(), zigzag(mtime.seconds), mtime.nanoseconds.into()] {
            put(out, number);
        }
        if let Some(target) = target {
            put_bytes(out, target);
        }
        for number in numbers.into_iter().flatten() {
            put(out, number);
        }
        if let Some(set) = xattrs {
            // Labels are the same for many files in a row.
            if self.last.as_ref() == Some(set) {
                put(out, form::SAME_SET);
            } else {
                put(out, form::NEW_SET);
                put(out, set.len() as u64);
                for (name, value) in set.iter() {
                    put_bytes(out, name);
                    put_bytes(out, value);
                }
                self.last = Some(set.clone());
            }
        }
        if let Some(extents) = sparse {
            put(out, extents.len() as u64);
            let mut at = 0;
            for extent in extents.iter() {
                put(out, extent.offset - at);
                put(out, extent.length);
                at = extent.offset + extent.length;
            }
        }
        self.entries += 1;
        if self.pending.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Writes what is pending.
    ///
    /// # Errors
    /// `io_error`.
    pub fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.pending, self.written).map_err(failed)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The file, to read the sealed table.
    ///
    /// # Errors
    /// `io_error`.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(failed)
    }

    /// Completes the table, or replaces what follows its entries. `note` is the caller's own.
    ///
    /// # Errors
    /// `io_error`.
    pub fn seal(&mut self, sealed: &TableFacts<'_>) -> Result<()> {
        self.flush()?;
        let (code, path) = sealed.reason.map_or(("", &b""[..]), |reason| (reason.code, &reason.path));
        let parts = [sealed.diff_id.as_str().as_bytes(), code.as_bytes(), path, sealed.note];
        let mut header = TableHeader {
            form: FORM,
            semantics: SEMANTICS,
            entries: self.entries,
            layer_bytes: sealed.layer_bytes,
            data_end: sealed.data_end,
            body: self.written - HEADER as u64,
            tail: parts.map(|part| part.len() as u32),
            checksum: [0; 32],
        };
        let tail = parts.concat();
        self.file.write_all_at(&tail, self.written).map_err(failed)?;
        let length = self.written + tail.len() as u64;
        self.file.set_len(length).map_err(failed)?;
        header.checksum = checksum(&self.file, &header, length)?;
        self.file.write_all_at(&header.encode(), 0).map_err(failed)
    }
}

/// What a table says besides its entries.
#[derive(Clone, Copy, Debug)]
pub struct TableFacts<'a> {
    /// Digest of the decompressed layer, compared.
    pub diff_id: &'a Digest,
    /// Bytes of the decompressed layer.
    pub layer_bytes: u64,
    /// First byte of the data file after the contents.
    pub data_end: u64,
    /// Why the layer cannot stand alone, if it cannot.
    pub reason: Option<&'a Reason>,
    /// The caller's own.
    pub note: &'a [u8],
}
