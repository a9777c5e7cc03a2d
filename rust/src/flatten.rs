//! All layers of an image, side by side, into one tree.
//!
//! Layers are decoded at the same time and merged in order.

mod above;
mod branch;
mod covered;
mod points;
mod shared;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub use self::above::Above;
use self::above::LayerEvent;
pub use self::branch::{Branch, Making};
use self::branch::{Merged, branch};
use self::covered::Covered;
pub use self::points::{LayerPoints, Noted};
use self::shared::{Shared, cancelled, lock};
use crate::batch::{Batch, StoredEntry};
use crate::budget::{Bounded, Budget};
use crate::contents::{LayerStore, Store};
use crate::decoded::{DecodedLayer, Keep, KeepingStore, KeptLayer, LaterLayer, Table};
use crate::error::{Code, Error, Result};
use crate::layer::{self, BlobReceiver, BlobSender, LayerInput, Progress};
use crate::limits::Limits;
use crate::merge::{Merge, Notices};
use crate::open_files::RaisedLimit;
use crate::scheduler::Scheduler;
use crate::tree::Tree;

enum Slot {
    /// Nothing of the layer has come.
    Idle,
    /// The layer is being decoded; its sender is taken out while a chunk is written.
    Running(Option<Box<BlobSender>>),
    /// The whole blob has come.
    Complete,
}

/// The work on one image.
pub struct Flattener {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    slots: Vec<Mutex<Slot>>,
    events: Vec<Mutex<Option<Sender<LayerEvent>>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    merging: Mutex<Option<JoinHandle<Merged>>>,
    /// Layers that are written side by side may need more files than a process has by default.
    _open_files: RaisedLimit,
}

impl Flattener {
    /// Makes ready for `layers`, lowest first, of which `decoders` are decoded at a time.
    ///
    /// # Errors
    /// `limit_exceeded` for too many layers; `io_error` when no thread can be started.
    pub fn new(layers: Vec<LayerInput>, store: Arc<dyn Store>, limits: Limits, decoders: usize) -> Result<Self> {
        Flattener::making(layers, store, limits, decoders, Making::default())
    }

    /// The same, for more than one tree.
    ///
    /// # Errors
    /// As [`Flattener::new`]; `internal_error` for a branch that does not fit the layers.
    pub fn making(
        layers: Vec<LayerInput>,
        store: Arc<dyn Store>,
        limits: Limits,
        decoders: usize,
        making: Making,
    ) -> Result<Self> {
        if making.branch.is_some_and(|branch| branch.base > branch.at || branch.at > layers.len()) {
            return Err(Error::new(Code::Internal, "the branch is not one of these layers"));
        }
        if layers.len() > limits.layers {
            let message = format!("the image has {} layers, more than {}", layers.len(), limits.layers);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let count = layers.len();
        let covered = Covered::of(&*store, &limits);
        let shared = Arc::new(Shared {
            progress: layers.iter().map(|_| Progress::default()).collect(),
            failures: Mutex::new(layers.iter().map(|_| None).collect()),
            failing: AtomicBool::new(false),
            scheduler: Scheduler::new(decoders, count, covered.is_watched()),
            keep: (0..count).map(|_| Mutex::default()).collect(),
            kept: (0..count).map(|_| Mutex::default()).collect(),
            points: layers.iter().map(LayerPoints::new).collect(),
            above: Above::new(layers.clone(), limits.clone()),
            covered,
            layers,
            budget: Arc::new(Budget::new(limits)),
        });
        let (senders, events): (Vec<_>, Vec<_>) = (0..count).map(|_| channel()).unzip();
        let merging = {
            let shared = Arc::clone(&shared);
            spawn("merge", move || {
                if making.from_top {
                    shared.above.collect(events, &shared.progress);
                    None
                } else {
                    merge(&shared, events, making)
                }
            })?
        };
        Ok(Flattener {
            shared,
            store,
            slots: (0..count).map(|_| Mutex::new(Slot::Idle)).collect(),
            events: senders.into_iter().map(|sender| Mutex::new(Some(sender))).collect(),
            workers: Mutex::default(),
            merging: Mutex::new(Some(merging)),
            _open_files: RaisedLimit::new(),
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.slots.len()
    }

    /// For each layer: bytes of the blob taken, decompressed bytes done, whether it is in the tree.
    pub fn progress(&self) -> Vec<(u64, u64, bool)> {
        let load = |progress: &Progress| {
            let Progress { compressed, decompressed, applied } = progress;
            (compressed.load(Ordering::Relaxed), decompressed.load(Ordering::Relaxed), applied.load(Ordering::Relaxed))
        };
        self.shared.progress.iter().map(load).collect()
    }

    /// Hands on bytes of a layer's blob, in order; blocks while the decoder has enough.
    ///
    /// # Errors
    /// `size_mismatch` as soon as there are too many; `cancelled` after a failure elsewhere or `abort`.
    pub fn write(&self, layer: usize, chunk: &[u8]) -> Result<()> {
        let mut sender = self.sender(layer)?;
        sender.write(chunk, &self.shared.progress[layer]).map_err(|error| self.failed(layer, error))?;
        // Under the slot's lock: `abort` says stop first and then empties the slots.
        let mut slot = lock(&self.slots[layer]);
        if !self.shared.wanted(layer) {
            return Err(cancelled());
        }
        *slot = Slot::Running(Some(sender));
        Ok(())
    }

    /// The blob of a layer is complete.
    ///
    /// # Errors
    /// `size_mismatch`, `digest_mismatch`.
    pub fn close_layer(&self, layer: usize) -> Result<()> {
        let sender = self.sender(layer)?;
        *lock(&self.slots[layer]) = Slot::Complete;
        sender.close().map_err(|error| self.failed(layer, error))
    }

    /// Keeps a layer whose blob will come; called before its first bytes.
    pub fn keep(&self, layer: usize, keep: Keep) {
        *lock(&self.shared.keep[layer]) = Some(keep);
    }

    /// A layer that was to be kept, once all layers are finished; `None` when it was given up.
    pub fn take_kept(&self, layer: usize) -> Option<KeptLayer> {
        lock(&self.shared.kept[layer]).take()
    }

    /// The bounds that all layers are held to.
    pub fn limits(&self) -> &Limits {
        self.shared.budget.limits()
    }

    /// Takes a decoded layer in the place of a blob; returns when all its contents are taken.
    ///
    /// # Errors
    /// `diff_id_mismatch` for another layer's; as [`DecodedLayer::adopt`]; `cancelled` after a failure elsewhere or
    /// `abort`.
    pub fn adopt(&self, layer: usize, table: &Table, data: File) -> Result<()> {
        self.take_over(layer, table, |entries| {
            let decoded = DecodedLayer { table, data: &Arc::new(data) };
            decoded.adopt(layer as u32, self.limits(), &*self.store, entries)
        })
    }

    /// Takes a layer whose entries a table has; `take` hands them on.
    fn take_over(
        &self,
        layer: usize,
        table: &Table,
        take: impl FnOnce(&mut dyn FnMut(Vec<StoredEntry>) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let Some(events) = lock(&self.events[layer]).take() else {
            return Err(cancelled());
        };
        *lock(&self.slots[layer]) = Slot::Complete;
        let shared = &self.shared;
        let expected = &shared.layers[layer];
        let taken = if table.diff_id() == &expected.diff_id {
            if shared.covered.is_watched() {
                // All of it, before lower layers come to their contents. `take` says what is wrong with it.
                let batches = table.entries(layer as u32, shared.budget.limits()).map_while(Result::ok);
                batches.for_each(|batch| shared.covered.note(layer as u32, &batch));
            }
            take(&mut |mut batch| {
                shared.budget.take(&mut batch)?;
                for ingested in &batch {
                    let size = ingested.content.as_ref().map_or(0, |content| content.size);
                    let taken = shared.budget.take_file_bytes(size);
                    taken.map_err(|error| error.at_entry(&ingested.entry.path, ingested.entry.offset))?;
                }
                if shared.stopped() || events.send(LayerEvent::Entries(Batch::new(batch))).is_err() {
                    return Err(cancelled());
                }
                Ok(())
            })
        } else {
            let what = "the kept layer is another one";
            Err(Error::mismatch(Code::DiffIdMismatch, what, &expected.diff_id, table.diff_id()))
        };
        shared.scheduler.complete(layer as u32);
        taken.map_err(|error| self.failed(layer, error))?;
        let progress = &shared.progress[layer];
        progress.compressed.store(expected.size, Ordering::Relaxed);
        progress.decompressed.store(table.layer_bytes(), Ordering::Relaxed);
        events.send(LayerEvent::Complete).map_err(|_| cancelled())
    }

    /// Takes a layer whose entries a table has, and whose contents are inflated when they are asked for.
    ///
    /// # Errors
    /// As [`Flattener::adopt`].
    pub fn adopt_later(&self, layer: usize, table: &Table, later: LaterLayer) -> Result<()> {
        self.take_over(layer, table, |entries| {
            self.store.later(layer as u32, Arc::new(later))?;
            table.entries(layer as u32, self.limits()).try_for_each(|batch| entries(batch?))
        })
    }

    /// The restart points of a layer's blob.
    pub fn points(&self, layer: usize) -> &LayerPoints {
        &self.shared.points[layer]
    }

    /// Waits until a layer is complete and verified, and all before it: for layers that are read from the top.
    ///
    /// # Errors
    /// The failure of a layer, as [`Flattener::finish`] raises it; `cancelled`.
    pub fn wait_for(&self, layer: usize) -> Result<()> {
        if self.shared.above.wait_for(layer) {
            return Ok(());
        }
        Err(self.finish().err().unwrap_or_else(cancelled))
    }

    /// What was read from the top.
    pub fn above(&self) -> &Above {
        &self.shared.above
    }

    fn failed(&self, layer: usize, error: Error) -> Error {
        let copy = Error { code: error.code, message: error.message.clone(), context: Box::default() };
        self.shared.fail(layer, error);
        self.abort();
        copy.in_layer(self.shared.layers[layer].digest.as_str())
    }

    /// Takes the layer's sender, starting its threads when it is the first time.
    fn sender(&self, layer: usize) -> Result<Box<BlobSender>> {
        let mut slot = lock(&self.slots[layer]);
        if self.shared.stopped() {
            return Err(cancelled());
        }
        match std::mem::replace(&mut *slot, Slot::Running(None)) {
            Slot::Running(Some(sender)) => Ok(sender),
            Slot::Idle => {
                let (sender, blob) = layer::blob_channel(&self.shared.layers[layer]);
                self.start(layer, blob.with_points(self.shared.points[layer].take()))?;
                Ok(Box::new(sender))
            }
            Slot::Running(None) => Err(Error::new(Code::Internal, "two threads write to one layer")),
            Slot::Complete => Err(Error::new(Code::Internal, "the layer is complete already")),
        }
    }

    fn start(&self, layer: usize, blob: BlobReceiver) -> Result<()> {
        let Some(events) = lock(&self.events[layer]).take() else {
            return Err(cancelled());
        };
        let shared = Arc::clone(&self.shared);
        let store = Arc::clone(&self.store);
        let worker = spawn(&format!("layer-{layer}"), move || {
            if let Err(error) = run_layer(&shared, &store, layer, blob, &events) {
                shared.fail(layer, error);
            }
            shared.scheduler.complete(layer as u32);
        })?;
        lock(&self.workers).push(worker);
        Ok(())
    }

    /// Calls all work off: whoever is blocked gets `cancelled`. Safe at any time, from any thread, more than once.
    pub fn abort(&self) {
        self.shared.scheduler.stop();
        self.drop_senders();
    }

    /// Nothing more comes: a layer that is not complete breaks off, one that was never begun will not begin.
    fn drop_senders(&self) {
        for slot in &self.slots {
            if let Slot::Running(sender) = &mut *lock(slot) {
                *sender = None;
            }
        }
        for events in &self.events {
            *lock(events) = None;
        }
    }

    /// Waits for all layers and gives the tree, and what was dropped on the way.
    ///
    /// # Errors
    /// The failure of the lowest layer that has one; `cancelled` when a layer was never fed; `internal_error` when the
    /// tree was given before.
    pub fn finish(&self) -> Result<(Tree, Notices)> {
        self.finish_all().map(|mut trees| trees.swap_remove(0))
    }

    /// The same for all trees that are made, the one of the branch last.
    ///
    /// # Errors
    /// As [`Flattener::finish`].
    pub fn finish_all(&self) -> Result<Vec<(Tree, Notices)>> {
        self.drop_senders();
        for worker in std::mem::take(&mut *lock(&self.workers)) {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let Some(merging) = lock(&self.merging).take() else {
            return Err(Error::new(Code::Internal, "the layers were finished before"));
        };
        let merged = merging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut failures: Vec<Error> = lock(&self.shared.failures).iter_mut().filter_map(Option::take).collect();
        let cause = failures.iter().position(|error| error.code != Code::Cancelled);
        match (cause, merged) {
            (Some(cause), _) => Err(failures.swap_remove(cause)),
            (None, Some(merged)) if !self.shared.stopped() => Ok(merged),
            _ => Err(cancelled()),
        }
    }
}

impl Drop for Flattener {
    fn drop(&mut self) {
        self.abort();
        for worker in std::mem::take(&mut *lock(&self.workers)) {
            // Its failure is of no interest any more.
            let _ = worker.join();
        }
        if let Some(merging) = lock(&self.merging).take() {
            let _ = merging.join();
        }
    }
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(work).map_err(|error| Error::thread(&error))
}

fn run_layer(
    shared: &Shared,
    store: &Arc<dyn Store>,
    layer: usize,
    blob: BlobReceiver,
    events: &Sender<LayerEvent>,
) -> Result<()> {
    let index = layer as u32;
    let (layer_store, mut keeping): (Box<dyn LayerStore>, _) = match lock(&shared.keep[layer]).take() {
        None => (store.layer(index)?, None),
        Some(keep) => {
            let (layer_store, keeping) = KeepingStore::new(keep, Arc::clone(store), index)?;
            (Box::new(layer_store), Some(keeping))
        }
    };
    let mut layer_store = Bounded::new(layer_store, &shared.budget);
    let cores = shared.scheduler.of(index);
    let tell = |event| events.send(event).map_err(|_| cancelled());
    let points = layer::ingest(
        blob,
        &shared.layers[layer],
        shared.budget.limits(),
        &cores,
        &mut layer_store,
        &shared.progress[layer],
        // Counted here, because entries of an upper layer wait for the lower ones before they are applied.
        &mut |mut batch| {
            shared.budget.take(&mut batch)?;
            shared.covered.note(index, &batch);
            if let Some(keeping) = &mut keeping {
                keeping.add(&batch);
            }
            shared.points[layer].note_entries(&batch, &shared.progress[layer]);
            tell(LayerEvent::Entries(Batch::new(batch)))
        },
    )?;
    let layer_bytes = shared.progress[layer].decompressed.load(Ordering::Relaxed);
    shared.points[layer].verified(points, layer_bytes);
    if let Some(keeping) = keeping {
        // Verified: that its diff ID was compared is what `ingest` has returned for.
        *lock(&shared.kept[layer]) = keeping.finish(&shared.layers[layer].diff_id, layer_bytes);
    }
    tell(LayerEvent::Complete)
}

/// Applies the layers in order.
fn merge(shared: &Shared, events: Vec<Receiver<LayerEvent>>, making: Making) -> Merged {
    let mut merge = Merge::within(Arc::clone(&shared.budget));
    let mut trees = Vec::new();
    let mut base = None;
    // Whether nothing is below the next layer.
    let mut lowest = true;
    for (layer, events) in events.into_iter().enumerate() {
        (merge, lowest) = branch(merge, lowest, layer, making.branch, &mut base, &mut trees);
        if making.removed {
            merge.keep_removed(layer as u32);
        }
        let mut broken = false;
        merge.additions(shared.layers[layer].added);
        let entries = std::iter::from_fn(|| match events.recv() {
            _ if broken => None,
            Ok(LayerEvent::Entries(batch)) => Some(Ok(batch)),
            Ok(LayerEvent::Complete) => None,
            Err(_) => {
                broken = true;
                Some(Err(cancelled()))
            }
        });
        let applied = if std::mem::take(&mut lowest) {
            merge.lowest_layer(entries)
        } else {
            entries.collect::<Result<Vec<_>>>().and_then(|batches| merge.upper_layer(batches))
        };
        if let Err(error) = applied {
            // The layer's thread stops at its next batch, because nobody receives it.
            shared.fail(layer, error);
            return None;
        }
        shared.progress[layer].applied.store(true, Ordering::Relaxed);
    }
    (merge, _) = branch(merge, lowest, shared.layers.len(), making.branch, &mut base, &mut trees);
    trees.push(merge.finish());
    Some(trees)
}
