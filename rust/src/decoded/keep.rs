//! Keeping a layer while it is decoded for a run: its data go to a file of their own, beside the run's store or in its
//! place, its entries into a table.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use super::writer::TableWriter;
use crate::batch::StoredEntry;
use crate::blocks::{BlockData, BlockLayer};
use crate::contents::{Content, LayerStore, Store};
use crate::digest::Digest;
use crate::entry::Metadata;
use crate::error::Result;

/// Bytes of data before a layer whose blocks are mostly empty is given up.
const PATIENCE: u64 = 4 << 20;

/// Where a layer is to be kept.
pub struct Keep {
    /// An empty file for the table, open for reading as well.
    pub table: File,
    /// An empty file for the data, open for reading as well.
    pub data: File,
    /// Whether it is kept even where whole blocks more than double it.
    pub always: bool,
}

/// Contents in the kept layer's file, from the store that takes them to the table.
type Handed = Arc<Mutex<Vec<Content>>>;

/// What takes the contents of a layer that is kept.
///
/// Where the run's store can share the data file, that file is the store's part of this layer; else both get the data.
pub struct KeepingStore {
    index: u32,
    store: Arc<dyn Store>,
    /// `None` once it was given up.
    blocks: Option<BlockLayer>,
    always: bool,
    beside: Option<Box<dyn LayerStore>>,
    handed: Handed,
    kept: Arc<Mutex<Option<BlockData>>>,
}

/// The table's side of a [`KeepingStore`].
pub struct Keeping {
    table: Option<TableWriter>,
    always: bool,
    handed: Handed,
    kept: Arc<Mutex<Option<BlockData>>>,
}

/// A layer that was kept: verified, but not complete before it was sealed.
pub struct KeptLayer {
    /// Its table.
    pub table: TableWriter,
    /// Its data.
    pub data: BlockData,
    /// Digest of the decompressed layer.
    pub diff_id: Digest,
    /// Bytes of the decompressed layer.
    pub layer_bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeepingStore {
    /// The store of layer `index`, and what makes its table.
    ///
    /// # Errors
    /// `io_error`.
    pub fn new(keep: Keep, store: Arc<dyn Store>, index: u32) -> Result<(Self, Keeping)> {
        let beside = if store.shares() { None } else { Some(store.layer(index)?) };
        let (handed, kept) = (Handed::default(), Arc::default());
        let keeping = Keeping {
            table: Some(TableWriter::new(keep.table)),
            always: keep.always,
            handed: Arc::clone(&handed),
            kept: Arc::clone(&kept),
        };
        let mut blocks = BlockLayer::new(keep.data, index);
        if beside.is_none() {
            let spare = Arc::clone(&store);
            blocks = blocks.with_spare(move || spare.spare());
        }
        let blocks = Some(blocks);
        Ok((KeepingStore { index, store, blocks, always: keep.always, beside, handed, kept }, keeping))
    }

    /// Runs a step of the kept file. Beside a store that has the data as well, a failure costs nothing but the kept layer.
    fn keep<T>(&mut self, step: impl FnOnce(&mut BlockLayer) -> Result<T>) -> Result<Option<T>> {
        let Some(blocks) = &mut self.blocks else { return Ok(None) };
        match step(blocks) {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.beside.is_none() => Err(error),
            Err(_) => {
                self.blocks = None;
                Ok(None)
            }
        }
    }
}

impl LayerStore for KeepingStore {
    fn called(&mut self, path: &[u8]) {
        if let Some(store) = &mut self.beside {
            store.called(path);
        }
    }

    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        self.keep(|blocks| blocks.begin(metadata, size))?;
        self.beside.as_mut().map_or(Ok(()), |store| store.begin(metadata, size))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.keep(|blocks| blocks.data(bytes))?;
        self.beside.as_mut().map_or(Ok(()), |store| store.data(bytes))
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.keep(|blocks| blocks.hole(length))?;
        self.beside.as_mut().map_or(Ok(()), |store| store.hole(length))
    }

    fn end(&mut self) -> Result<Content> {
        let kept = self.keep(LayerStore::end)?;
        lock(&self.handed).extend(kept.clone());
        let Some(beside) = &mut self.beside else {
            let Some(kept) = kept else { unreachable!("the only store of a layer is never given up") };
            return self.store.shared(kept);
        };
        let wasteful = |blocks: &BlockLayer| !blocks.is_compact() && blocks.reached() > PATIENCE;
        if !self.always && self.blocks.as_ref().is_some_and(wasteful) {
            self.blocks = None;
        }
        beside.end()
    }

    fn finish(&mut self) -> Result<()> {
        self.keep(LayerStore::finish)?;
        let spared = self.blocks.as_ref().is_some_and(BlockLayer::is_spared);
        let data = self.blocks.take().map(BlockLayer::into_data);
        match (&mut self.beside, &data) {
            (Some(store), _) => store.finish()?,
            (None, Some(data)) => self.store.share(self.index, &data.file, data.end)?,
            (None, None) => {}
        }
        *lock(&self.kept) = data.filter(|_| !spared);
        Ok(())
    }
}

impl Keeping {
    /// Adds entries to the table, with the contents that the store has handed on.
    pub fn add(&mut self, entries: &[StoredEntry]) {
        let contents = std::mem::take(&mut *lock(&self.handed));
        let Some(table) = &mut self.table else { return };
        let mut contents = contents.iter();
        for StoredEntry { entry, content } in entries {
            let kept = content.as_ref().and_then(|_| contents.next());
            if content.is_some() && kept.is_none() || table.add(entry, kept).is_err() {
                self.table = None;
                return;
            }
        }
    }

    /// The layer, whose diff ID was compared; `None` when it was given up, or whole blocks more than double it.
    pub fn finish(self, diff_id: &Digest, layer_bytes: u64) -> Option<KeptLayer> {
        let data = lock(&self.kept).take()?;
        let compact = self.always || data.end <= 2 * data.archived + crate::blocks::BLOCK;
        let table = self.table.filter(|_| compact)?;
        Some(KeptLayer { table, data, diff_id: diff_id.clone(), layer_bytes })
    }
}
