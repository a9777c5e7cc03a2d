//! What the threads of a run share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::above::Above;
use super::covered::Covered;
use super::points::LayerPoints;
use crate::budget::Budget;
use crate::decoded::{Keep, KeptLayer};
use crate::error::{Code, Error};
use crate::layer::{LayerInput, Progress};
use crate::scheduler::Scheduler;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves nothing half-done behind it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the work was called off")
}

/// What all layers of a run share.
pub(super) struct Shared {
    pub(super) layers: Vec<LayerInput>,
    pub(super) progress: Vec<Progress>,
    pub(super) failures: Mutex<Vec<Option<Error>>>,
    pub(super) failing: AtomicBool,
    pub(super) budget: Arc<Budget>,
    pub(super) scheduler: Scheduler,
    /// Where a layer is to be kept, until it is begun.
    pub(super) keep: Vec<Mutex<Option<Keep>>>,
    /// Layers that were kept and verified.
    pub(super) kept: Vec<Mutex<Option<KeptLayer>>>,
    /// Restart points of blobs.
    pub(super) points: Vec<LayerPoints>,
    /// What was read from the top.
    pub(super) above: Above,
    /// What upper layers hide.
    pub(super) covered: Arc<Covered>,
}

impl Shared {
    /// Keeps a layer's first failure, or the one that explains it.
    pub(super) fn fail(&self, layer: usize, error: Error) {
        let error = error.in_layer(self.layers[layer].digest.as_str());
        let slot = &mut lock(&self.failures)[layer];
        match slot {
            Some(known) if known.code != Code::Cancelled && !explains(&error) => {}
            _ => *slot = Some(error),
        }
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether more bytes of a layer are wanted: not after a failure elsewhere. A layer whose contents were refused is
    /// read on, because a damaged blob would explain it; one that passed a bound is not.
    pub(super) fn wanted(&self, layer: usize) -> bool {
        if self.stopped() {
            return false;
        }
        !self.failing.load(Ordering::Relaxed)
            || lock(&self.failures)[layer].as_ref().is_some_and(|error| {
                matches!(
                    error.code,
                    Code::CompressionInvalid | Code::TarInvalid | Code::EntryRefused | Code::DiffIdMismatch
                )
            })
    }

    pub(super) fn stopped(&self) -> bool {
        self.scheduler.stopped()
    }
}

/// A blob that is not the one its descriptor names explains whatever else went wrong with it.
fn explains(error: &Error) -> bool {
    matches!(error.code, Code::DigestMismatch | Code::SizeMismatch)
}
