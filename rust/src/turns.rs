//! Which layer decompresses now.
//!
//! Where a store keeps layers in order, a layer that runs ahead costs a copy, and wherever all cores are busy it takes
//! them from a layer below. So a higher layer gets a core only when the lower ones leave it unused.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::layer::Turn;

/// How long a core waits for a lower layer before a higher one gets it. Long enough for a thread that is about to bring
/// bytes to be scheduled, short against what a slow network makes a layer wait.
const PATIENCE: Duration = Duration::from_millis(10);

/// Cores, given to the lowest layers that are not complete.
pub(crate) struct Turns {
    cores: usize,
    state: Mutex<TurnState>,
    changed: Condvar,
    stop: AtomicBool,
}

struct TurnState {
    free: usize,
    waiting: BTreeSet<u32>,
    incomplete: BTreeSet<u32>,
    /// When one of the layers that come first gave a core back.
    left: Instant,
}

impl Turns {
    pub(crate) fn new(cores: usize, layers: usize) -> Self {
        let cores = cores.max(1);
        let incomplete = (0..layers as u32).collect();
        let state = TurnState { free: cores, waiting: BTreeSet::new(), incomplete, left: Instant::now() };
        Turns { cores, state: Mutex::new(state), changed: Condvar::new(), stop: AtomicBool::new(false) }
    }

    /// Whether all work was called off.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The turns of one of the layers.
    pub(crate) fn of(&self, layer: u32) -> LayerTurns<'_> {
        LayerTurns { turns: self, layer }
    }

    fn state(&self) -> MutexGuard<'_, TurnState> {
        // A panic while holding the lock leaves nothing half-done behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a layer is among the first, as many as there are cores, that are not complete.
    fn comes_first(&self, state: &TurnState, layer: u32) -> bool {
        state.incomplete.range(..layer).nth(self.cores - 1).is_none()
    }

    /// Nothing more is decoded of a layer.
    pub(crate) fn complete(&self, layer: u32) {
        self.state().incomplete.remove(&layer);
        self.changed.notify_all();
    }

    /// Calls all work off.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _state = self.state();
        self.changed.notify_all();
    }
}

/// The turns of one layer.
pub(crate) struct LayerTurns<'t> {
    turns: &'t Turns,
    layer: u32,
}

impl Turn for LayerTurns<'_> {
    fn acquire(&self) -> Result<()> {
        let mut state = self.turns.state();
        state.waiting.insert(self.layer);
        loop {
            if self.turns.stopped() {
                state.waiting.remove(&self.layer);
                return Err(Error::new(Code::Cancelled, "the work was called off"));
            }
            let mut wait = None;
            if state.free > 0 && state.waiting.first() == Some(&self.layer) {
                if !self.turns.comes_first(&state, self.layer) {
                    wait = PATIENCE.checked_sub(state.left.elapsed()).filter(|rest| !rest.is_zero());
                }
                if wait.is_none() {
                    state.waiting.remove(&self.layer);
                    state.free -= 1;
                    if state.free > 0 && !state.waiting.is_empty() {
                        self.turns.changed.notify_all();
                    }
                    return Ok(());
                }
            }
            state = match wait {
                Some(rest) => self.turns.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0,
                None => self.turns.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn release(&self) {
        let mut state = self.turns.state();
        state.free += 1;
        if self.turns.comes_first(&state, self.layer) {
            state.left = Instant::now();
        }
        if !state.waiting.is_empty() {
            self.turns.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_waits_for_the_lower_layer_before_a_higher_one_gets_it() -> Result<()> {
        let turns = Turns::new(1, 3);
        turns.of(0).acquire()?;
        turns.of(0).release();
        let began = Instant::now();
        turns.of(1).acquire()?;
        assert!(began.elapsed() > PATIENCE / 2);
        turns.of(1).release();
        // It waited long enough: the lower layer has not come back since.
        turns.of(2).acquire()?;
        turns.of(2).release();
        turns.complete(0);
        assert!(turns.comes_first(&turns.state(), 1) && !turns.comes_first(&turns.state(), 2));
        Ok(())
    }

    #[test]
    fn the_lowest_layer_that_waits_is_next() {
        let turns = Turns::new(1, 3);
        let (said, order) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            turns.of(2).acquire().expect("free");
            for layer in [1, 0] {
                let (turns, said) = (&turns, said.clone());
                scope.spawn(move || {
                    turns.of(layer).acquire().expect("its turn comes");
                    said.send(layer).expect("heard");
                    turns.of(layer).release();
                });
                while turns.state().waiting.first() != Some(&layer) {
                    std::thread::yield_now();
                }
            }
            turns.of(2).release();
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn nobody_waits_after_a_stop() {
        let turns = Turns::new(1, 2);
        turns.of(0).acquire().expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.of(1).acquire().expect_err("called off").code);
            turns.stop();
            assert_eq!(waiting.join().expect("no panic"), Code::Cancelled);
        });
        assert!(turns.stopped());
    }
}
