//! The restart points of the blobs that a run inflates, and the entries of layers beside them.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::StoredEntry;
use crate::decoded::{DATA_END, LaterLayer, TableFacts, TableWriter, place_of};
use crate::decompress::{Recorder, Restart};
use crate::error::Result;
use crate::layer::{LayerInput, Points, Progress};
use crate::limits::Limits;

/// Bytes that the table of entries may have, and the part of the layer's bytes that it may have beyond them.
const TABLE: u64 = 64 << 10;
const SHARE: u64 = 256;

/// What became of the restart points of a blob that was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Whether points were noted, so that their file is complete.
    pub complete: bool,
    /// Whether entries were, too.
    pub entries: bool,
    /// Whether points that were used are of another stream, so far.
    pub wrong: bool,
}

/// The restart points of one layer's blob.
pub struct LayerPoints {
    layer: LayerInput,
    /// Until the layer is begun.
    waiting: Mutex<Points>,
    /// Where entries are noted; `None` where they are not, or could not be.
    entries: Mutex<Option<TableWriter>>,
    noted: Mutex<Noted>,
    /// Set by contents that are inflated when they are asked for, at any time.
    wrong: Arc<AtomicBool>,
}

impl LayerPoints {
    pub(super) fn new(layer: &LayerInput) -> Self {
        let layer = layer.clone();
        LayerPoints {
            layer,
            waiting: Mutex::default(),
            entries: Mutex::default(),
            noted: Mutex::default(),
            wrong: Arc::default(),
        }
    }

    /// What the layer begins with.
    pub(super) fn take(&self) -> Points {
        std::mem::take(&mut *lock(&self.waiting))
    }

    /// Notes entries, if they are to be noted. What fails is not the layer's failure. Where the table becomes too large
    /// beside the layer, which has very many very small files, it is given up.
    pub(super) fn note_entries(&self, batch: &[StoredEntry], progress: &Progress) {
        let mut table = lock(&self.entries);
        if let Some(writer) = &mut *table {
            let noted = batch.iter().try_for_each(|StoredEntry { entry, content }| {
                writer.add(entry, content.as_ref().map(|content| place_of(entry, content)).as_ref())
            });
            let most = TABLE + progress.decompressed.load(Ordering::Relaxed) / SHARE;
            if noted.is_err() || writer.length() > most {
                *table = None;
            }
        }
    }

    /// The layer is verified, and has so many bytes.
    pub(super) fn verified(&self, points: Points, layer_bytes: u64) {
        let layer = &self.layer;
        let sealed = TableFacts { diff_id: &layer.diff_id, layer_bytes, data_end: DATA_END, reason: None, note: b"" };
        let complete = points.recorder.is_some_and(|noted| noted.finish(&layer.digest, layer.size).unwrap_or(false));
        let table = lock(&self.entries).take().filter(|_| complete);
        let entries = table.is_some_and(|mut table| table.seal(&sealed).is_ok());
        *lock(&self.noted) = Noted { complete, entries, wrong: points.wrong };
    }

    /// Has the blob inflated from restart points as well; called before its first bytes.
    ///
    /// # Errors
    /// As [`Restart::open`].
    pub fn use_known(&self, file: File) -> Result<()> {
        let known = self.open(file)?;
        lock(&self.waiting).known = Some(known);
        Ok(())
    }

    fn open(&self, file: File) -> Result<Restart> {
        Restart::open(file, &self.layer.digest, self.layer.size)
    }

    /// Has restart points of the blob noted, and the layer's entries, in empty files that are open for reading as well;
    /// called before its first bytes.
    pub fn note(&self, points: File, entries: File) {
        lock(&self.waiting).recorder = Some(Recorder::new(points));
        *lock(&self.entries) = Some(TableWriter::new(entries));
    }

    /// What became of them, once the layer is verified or its entries are taken over.
    pub fn noted(&self) -> Noted {
        let noted = *lock(&self.noted);
        Noted { wrong: noted.wrong || self.wrong.load(Ordering::Relaxed), ..noted }
    }

    /// The layer with contents that are inflated when they are asked for, and then kept in `folder`: its blob stands in
    /// `blob` from byte `start` on, and has its digest.
    ///
    /// # Errors
    /// As [`Restart::open`].
    pub fn later(&self, points: File, blob: (File, u64), folder: PathBuf, limits: Limits) -> Result<LaterLayer> {
        let (restart, (blob, start)) = (self.open(points)?, blob);
        let range = (start, start + self.layer.size);
        Ok(LaterLayer::new(restart, blob, range, folder, limits, Arc::clone(&self.wrong)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves nothing half-done behind it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
