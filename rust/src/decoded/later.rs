//! Contents of a layer that are inflated when somebody asks for them, from its blob's restart points.
//!
//! The table of such a layer is the one of a decoded layer, but that its contents stand nowhere yet: what it says of their
//! place is where their entry begins in the archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::blocks::BLOCK;
use crate::contents::{Content, Later};
use crate::decompress::{BlobSection, Decompressor, Restart, Seek};
use crate::entry::{Entry, Kind};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::spool::unnamed_file;
use crate::tar::{Data, Reader};

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;
/// First byte after the data in such a table: more than there can be.
pub const DATA_END: u64 = 1 << 62;
/// Entries begin at blocks of 512 bytes, and contents of a table at those of 4096.
const SCALE: u64 = BLOCK / 512;

/// What a table says of the place of an entry's content.
pub fn place_of(entry: &Entry, content: &Content) -> Content {
    Content { position: BLOCK + entry.offset * SCALE, ..content.clone() }
}

/// The blob of a layer whose contents are inflated when they are asked for.
pub struct LaterLayer {
    restart: Arc<Restart>,
    blob: Arc<File>,
    /// Where it stands in the file.
    range: (u64, u64),
    folder: PathBuf,
    limits: Limits,
    wrong: Arc<AtomicBool>,
    made: Mutex<Made>,
}

/// Contents that were asked for.
#[derive(Default)]
struct Made {
    file: Option<Arc<File>>,
    end: u64,
    /// By their place in the table.
    places: HashMap<u64, u64>,
}

impl LaterLayer {
    /// Of a blob in a file; what is asked for is kept in a file without a name in `folder`. `wrong` is set once the blob
    /// says otherwise than its restart points, or than the table.
    pub fn new(
        restart: Restart,
        blob: File,
        range: (u64, u64),
        folder: PathBuf,
        limits: Limits,
        wrong: Arc<AtomicBool>,
    ) -> Self {
        let (restart, blob) = (Arc::new(restart), Arc::new(blob));
        LaterLayer { restart, blob, range, folder, limits, wrong, made: Mutex::default() }
    }

    /// The file with a content, and where it begins there.
    fn file(&self, content: &Content) -> Result<(Arc<File>, u64)> {
        // A panic while holding the lock leaves a content unmade, and its place free.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &made.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(made.file.insert(Arc::new(unnamed_file(&self.folder)?))),
        };
        if let Some(&at) = made.places.get(&content.position) {
            return Ok((file, at));
        }
        let at = made.end;
        let offset = (content.position - BLOCK) / SCALE;
        if !self.read_from_point(offset, content, &file, at).unwrap_or(false) {
            file.set_len(at).map_err(|error| failed(&error))?;
            let blob = BlobSection::new(Arc::clone(&self.blob), self.range.0, self.range.1);
            let taken = take(&mut Decompressor::new(blob, &self.limits), offset, content, &self.limits, &file, at);
            // What was noted may be wrong; the blob is not, which has its digest. A disk that fails shows neither.
            let found = match taken {
                Err(error) if error.code != Code::Io => false,
                taken => taken?,
            };
            self.wrong.store(true, Ordering::Relaxed);
            if !found {
                return Err(Error::new(Code::Io, "the table of a kept layer is damaged: an entry is another one"));
            }
        }
        made.end = at + content.size;
        file.set_len(made.end).map_err(|error| failed(&error))?;
        made.places.insert(content.position, at);
        Ok((file, at))
    }

    fn read_from_point(&self, offset: u64, content: &Content, file: &File, at: u64) -> Result<bool> {
        let mut blob = Seek::new(&self.restart, &self.blob, self.range, offset)?;
        let skipped = offset - blob.position();
        let found = take(&mut blob, skipped, content, &self.limits, file, at)?;
        blob.settle()?;
        Ok(found)
    }
}

fn failed(error: &io::Error) -> Error {
    Error::io("cannot keep a file of a layer", error)
}

/// Writes the content of the entry that begins `skipped` bytes further on to `file`, from `at` on. Returns whether such an
/// entry begins there.
fn take(
    archive: &mut impl Read,
    skipped: u64,
    content: &Content,
    limits: &Limits,
    file: &File,
    at: u64,
) -> Result<bool> {
    let reading = |error: io::Error| Error::io("cannot read the layer", &error);
    let passed = io::copy(&mut archive.by_ref().take(skipped), &mut io::sink()).map_err(reading)?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, archive), limits.clone());
    let entry = if passed == skipped { reader.next_entry()? } else { None };
    if entry.is_none_or(|entry| entry.kind != Kind::File { size: content.size }) {
        return Ok(false);
    }
    let mut done = 0;
    while let Some(data) = reader.next_data()? {
        match data {
            Data::Bytes(bytes) => {
                file.write_all_at(bytes, at + done).map_err(|error| failed(&error))?;
                done += bytes.len() as u64;
            }
            Data::Hole(length) => done += length,
        }
    }
    Ok(true)
}

impl Later for LaterLayer {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let wanted = content.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        if wanted > 0 {
            let (file, at) = self.file(content)?;
            file.read_exact_at(&mut buffer[..wanted], at + offset).map_err(|error| failed(&error))?;
        }
        Ok(wanted)
    }
}
