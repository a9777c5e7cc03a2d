//! Layers that are read one after the other, the highest first, until what is asked is known.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::batch::Batch;
use crate::error::Result;
use crate::layer::{LayerInput, Progress};
use crate::limits::Limits;
use crate::merge::{Known, Merge, Notices, Question};
use crate::tree::Tree;

/// How often the entries that are there may be looked at for each of them: with many layers not after every one.
const LOOKS: u64 = 16;

/// A message from a layer's thread to the merge thread.
pub(super) enum LayerEvent {
    Entries(Batch),
    /// The layer is complete and verified.
    Complete,
}

/// The layers that are complete, the highest first.
pub struct Above {
    /// Of all layers, the highest first.
    inputs: Vec<LayerInput>,
    limits: Limits,
    read: Mutex<Read>,
    changed: Condvar,
}

#[derive(Default)]
struct Read {
    layers: Vec<Arc<[Batch]>>,
    /// Bytes of them all.
    bytes: u64,
    /// Bytes that were looked at.
    looked: u64,
    /// No more layers will come.
    ended: bool,
    /// What so many layers say.
    known: Option<(usize, Arc<Known>)>,
}

impl Above {
    pub(super) fn new(inputs: Vec<LayerInput>, limits: Limits) -> Self {
        Above { inputs, limits, read: Mutex::default(), changed: Condvar::new() }
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        // A panic while holding the lock leaves nothing half-done behind it.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the entries of layers that are read one after the other, the highest first, until they end.
    pub(super) fn collect(&self, layers: Vec<Receiver<LayerEvent>>, progress: &[Progress]) {
        for (events, progress) in layers.into_iter().zip(progress) {
            let mut batches = Vec::new();
            let complete = loop {
                match events.recv() {
                    Ok(LayerEvent::Entries(batch)) => batches.push(batch),
                    Ok(LayerEvent::Complete) => break true,
                    Err(_) => break false,
                }
            };
            progress.applied.store(complete, Ordering::Relaxed);
            self.push(complete.then_some(batches));
            if !complete {
                break;
            }
        }
    }

    /// Takes the next layer; nothing when no more will come.
    fn push(&self, layer: Option<Vec<Batch>>) {
        let mut read = self.read();
        match layer {
            Some(batches) => {
                read.bytes += batches.iter().map(Batch::packed_bytes).sum::<usize>() as u64;
                read.layers.push(batches.into());
            }
            None => read.ended = true,
        }
        self.changed.notify_all();
    }

    /// Waits for a layer, and all before it; false when it will not come.
    pub(super) fn wait_for(&self, layer: usize) -> bool {
        let mut read = self.read();
        while read.layers.len() <= layer && !read.ended {
            read = self.changed.wait(read).unwrap_or_else(PoisonError::into_inner);
        }
        read.layers.len() > layer
    }

    /// The entries of a layer that is read, by its number from the highest; none of one that is not.
    pub fn layer(&self, number: usize) -> Arc<[Batch]> {
        self.read().layers.get(number).cloned().unwrap_or_default()
    }

    /// Whether the layers read so far answer a question about a path, whatever the others hold. With many layers it is
    /// not looked at after each: then the answer is no.
    pub fn settles(&self, path: &[u8], follow: bool, question: Question) -> bool {
        let mut read = self.read();
        let count = read.layers.len();
        if count == self.inputs.len() {
            return true;
        }
        if read.known.as_ref().is_none_or(|(of, _)| *of != count) {
            if read.looked + read.bytes > LOOKS * read.bytes {
                return false;
            }
            read.looked += read.bytes;
            let known = Known::new(read.layers.iter().rev().map(|layer| &**layer), self.limits.clone());
            read.known = Some((count, Arc::new(known)));
        }
        read.known.as_ref().is_some_and(|(_, known)| known.settles(path, follow, question))
    }

    /// The tree of the layers read so far: what is in it is the image's only where [`Above::settles`] says so, unless all
    /// are read.
    ///
    /// # Errors
    /// As [`Merge::upper_layer`], naming the layer.
    pub fn tree(&self) -> Result<(Tree, Notices)> {
        let layers = self.read().layers.clone();
        let mut merge = Merge::new(self.limits.clone());
        merge.above_others(layers.len() < self.inputs.len());
        for (number, layer) in layers.iter().enumerate().rev() {
            let applied = if number + 1 == layers.len() {
                merge.lowest_layer(layer.iter().cloned().map(Ok))
            } else {
                merge.upper_layer(layer.to_vec())
            };
            applied.map_err(|error| error.in_layer(self.inputs[number].digest.as_str()))?;
        }
        Ok(merge.finish())
    }
}
