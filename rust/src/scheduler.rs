//! Which layer decompresses now.
//!
//! Where a store keeps layers in order, a layer that runs ahead costs a copy, and wherever all cores are busy it takes
//! them from a layer below. So a higher layer gets a core only when the lower ones leave it unused. A store that leaves
//! alone what upper layers hide wants it the other way round.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result};
use crate::layer::Cores;

/// How long a core is kept for a lower layer before a higher one gets it. Long enough for a thread that is about to
/// bring bytes to be scheduled, short against the 9 ms that one buffer takes at 30 MB/s, what a connection often gives.
const PATIENCE: Duration = Duration::from_millis(3);

/// Cores, given to the first layers that are not complete: the lowest, or the highest.
pub(crate) struct Scheduler {
    /// The highest layer, when it is the first.
    top: Option<u32>,
    state: Mutex<State>,
    /// By rank one for each layer: of those that wait only the first can be next, so that one alone is woken.
    changed: Vec<Condvar>,
    stop: AtomicBool,
}

struct State {
    cores: usize,
    /// Meaningless once all work was called off: a layer then gives back what it did not get.
    free: usize,
    /// How long a core was free, up to `free_since` if one is now.
    idle: Duration,
    free_since: Option<Instant>,
    /// By rank the layers that wait for a core, and `idle` when they began.
    waiting: BTreeMap<u32, Duration>,
    /// By rank the unfinished layers: when the layer went idle, or `None` while it runs or waits.
    incomplete: BTreeMap<u32, Option<Instant>>,
}

impl State {
    /// How long a waiting layer must leave a free core unused; `None`: it takes it now.
    ///
    /// The lowest layers come first, as many as there are cores. A core is reserved for each of them that is away, for
    /// `PATIENCE` after it last ran. The total wait is capped at `PATIENCE` as well, so that a slow download, which would
    /// renew the reservation with every byte, cannot hold a core idle.
    fn patience(&self, rank: u32, now: Instant) -> Option<Duration> {
        let rest = |passed: Duration| PATIENCE.checked_sub(passed).filter(|rest| !rest.is_zero());
        let first = || self.incomplete.iter().take(self.cores);
        if first().any(|(&first, _)| first == rank) {
            return None;
        }
        let own = self.waiting.get(&rank).and_then(|&began| rest(self.idle(now) - began))?;
        let kept: Vec<Duration> = first().filter_map(|(_, away)| rest(now.duration_since((*away)?))).collect();
        if kept.len() < self.free {
            return None;
        }
        kept.into_iter().min().map(|soonest| soonest.min(own))
    }

    fn idle(&self, now: Instant) -> Duration {
        self.idle + self.free_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// One more core is free, or one less.
    fn set_free(&mut self, free: usize) {
        let now = Instant::now();
        self.free = free;
        self.idle = self.idle(now);
        self.free_since = (free > 0).then_some(now);
    }
}

impl Scheduler {
    /// For so many layers; `from_top` says whether the highest is the first.
    pub(crate) fn new(cores: usize, layers: usize, from_top: bool) -> Self {
        let cores = cores.max(1);
        let began = Some(Instant::now());
        let incomplete = (0..layers as u32).map(|layer| (layer, began)).collect();
        let state =
            State { cores, free: cores, idle: Duration::ZERO, free_since: began, waiting: BTreeMap::new(), incomplete };
        let changed = (0..layers).map(|_| Condvar::new()).collect();
        let top = from_top.then(|| (layers as u32).saturating_sub(1));
        Scheduler { top, state: Mutex::new(state), changed, stop: AtomicBool::new(false) }
    }

    /// Whether all work was called off.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The cores of one of the layers.
    pub(crate) fn of(&self, layer: u32) -> LayerCores<'_> {
        LayerCores { scheduler: self, rank: self.rank(layer) }
    }

    /// A layer's place in the order.
    fn rank(&self, layer: u32) -> u32 {
        self.top.map_or(layer, |top| top - layer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves nothing half-done behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next layer look whether it may have a core.
    fn wake(&self, state: &State) {
        if state.free > 0
            && let Some((&next, _)) = state.waiting.first_key_value()
        {
            self.changed[next as usize].notify_one();
        }
    }

    /// Nothing more is decoded of a layer.
    pub(crate) fn complete(&self, layer: u32) {
        let mut state = self.state();
        state.incomplete.remove(&self.rank(layer));
        self.wake(&state);
    }

    /// Calls all work off.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _state = self.state();
        self.changed.iter().for_each(Condvar::notify_one);
    }
}

/// One layer's way to a core.
pub(crate) struct LayerCores<'t> {
    scheduler: &'t Scheduler,
    rank: u32,
}

impl Cores for LayerCores<'_> {
    fn acquire(&self) -> Result<()> {
        let LayerCores { scheduler, rank } = self;
        let changed = &scheduler.changed[*rank as usize];
        let mut state = scheduler.state();
        let idle = state.idle(Instant::now());
        state.waiting.insert(*rank, idle);
        if let Some(away) = state.incomplete.get_mut(rank) {
            *away = None;
        }
        loop {
            if scheduler.stopped() {
                state.waiting.remove(rank);
                return Err(Error::new(Code::Cancelled, "the work was called off"));
            }
            let next = state.waiting.first_key_value().is_some_and(|(next, _)| next == rank);
            if state.free == 0 || !next {
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if let Some(patience) = state.patience(*rank, Instant::now()) {
                state = changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.waiting.remove(rank);
                let free = state.free - 1;
                state.set_free(free);
                scheduler.wake(&state);
                return Ok(());
            }
        }
    }

    fn release(&self) {
        let mut state = self.scheduler.state();
        let free = state.free + 1;
        state.set_free(free);
        if let Some(away) = state.incomplete.get_mut(&self.rank) {
            *away = Some(Instant::now());
        }
        self.scheduler.wake(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `patience` says, in tenths of `PATIENCE`: with so many cores, so many of them free; for each layer that is
    /// not complete how long it has been away; how long a core was free while the layer waited.
    fn patience(cores: usize, free: usize, incomplete: &[(u32, Option<u32>)], layer: u32, waited: u32) -> Option<u32> {
        let part = PATIENCE / 10;
        let now = Instant::now() + PATIENCE;
        let since = |parts: u32| now - parts * part;
        let incomplete = incomplete.iter().map(|&(layer, away)| (layer, away.map(since))).collect();
        let (idle, waiting) = (waited * part, BTreeMap::from([(layer, Duration::ZERO)]));
        let state = State { cores, free, idle, free_since: None, waiting, incomplete };
        state.patience(layer, now).map(|rest| (rest.as_nanos() / part.as_nanos()) as u32)
    }

    #[test]
    fn a_core_is_kept_for_a_lower_layer_for_a_while() {
        let here = None;
        let table = [
            // The lowest: at once.
            (1, 1, vec![(5, here)], 0, None),
            (2, 1, vec![(0, Some(0)), (5, here)], 0, None),
            // One core, which a lower layer has just left, or left long ago.
            (1, 1, vec![(0, Some(2)), (5, here)], 0, Some(8)),
            (1, 1, vec![(0, Some(10)), (5, here)], 0, None),
            // A lower layer that comes and goes is waited for no longer than this.
            (1, 1, vec![(0, Some(2)), (5, here)], 9, Some(1)),
            (1, 1, vec![(0, Some(0)), (5, here)], 10, None),
            // A layer at work has its core and keeps no other one.
            (2, 1, vec![(0, here), (1, Some(4)), (5, here)], 0, Some(6)),
            (2, 1, vec![(0, here), (1, Some(10)), (5, here)], 0, None),
            // Two are kept: the first to fall free is waited for. A third core is kept for nobody.
            (2, 2, vec![(0, Some(3)), (1, Some(7)), (5, here)], 0, Some(3)),
            (3, 3, vec![(0, Some(3)), (1, Some(7)), (2, Some(10)), (5, here)], 0, None),
            // Only as many layers as there are cores come first.
            (1, 1, vec![(0, Some(10)), (1, Some(0)), (5, here)], 0, None),
        ];
        for (cores, free, incomplete, waited, expected) in table {
            let seen = patience(cores, free, &incomplete, 5, waited);
            assert_eq!(seen, expected, "{cores} {free} {incomplete:?} {waited}");
        }
    }

    #[test]
    fn a_layer_is_away_from_its_release_to_its_next_turn() -> Result<()> {
        let scheduler = Scheduler::new(1, 2, false);
        let away =
            || scheduler.state().incomplete.iter().map(|(&layer, away)| (layer, away.is_some())).collect::<Vec<_>>();
        assert_eq!(away(), [(0, true), (1, true)]);
        scheduler.of(0).acquire()?;
        assert_eq!(away(), [(0, false), (1, true)]);
        scheduler.of(0).release();
        assert_eq!(away(), [(0, true), (1, true)]);
        scheduler.of(1).acquire()?;
        assert_eq!(away(), [(0, true), (1, false)]);
        scheduler.complete(0);
        scheduler.complete(1);
        scheduler.of(1).release();
        assert_eq!((away(), scheduler.state().free), (vec![], 1));
        Ok(())
    }

    #[test]
    fn a_layer_that_never_comes_does_not_keep_its_core() {
        let scheduler = Scheduler::new(2, 3, false);
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            // The lowest layer comes and goes all the time; the next one, whose core is free, never comes.
            scope.spawn(|| {
                while scheduler.of(0).acquire().is_ok() {
                    scheduler.of(0).release();
                }
            });
            scope.spawn(|| said.send(scheduler.of(2).acquire().is_ok()));
            let had = heard.recv_timeout(Duration::from_secs(60));
            scheduler.stop();
            assert_eq!(had, Ok(true));
        });
    }

    #[test]
    fn the_first_layer_that_waits_is_next() {
        for (from_top, layers) in [(false, [2, 1, 0]), (true, [0, 1, 2])] {
            let scheduler = Scheduler::new(1, 3, from_top);
            let (said, order) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scheduler.of(layers[0]).acquire().expect("free");
                for layer in layers[1..].iter().copied() {
                    let (scheduler, said) = (&scheduler, said.clone());
                    scope.spawn(move || {
                        scheduler.of(layer).acquire().expect("its turn comes");
                        said.send(layer).expect("heard");
                        scheduler.of(layer).release();
                    });
                    while scheduler.state().waiting.first_key_value().map(|(&first, _)| first)
                        != Some(scheduler.rank(layer))
                    {
                        std::thread::yield_now();
                    }
                }
                scheduler.of(layers[0]).release();
            });
            assert_eq!(order.try_iter().collect::<Vec<_>>(), [layers[2], layers[1]], "{from_top}");
        }
    }

    #[test]
    fn nobody_waits_after_a_stop() {
        let scheduler = Scheduler::new(1, 2, false);
        scheduler.of(0).acquire().expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| scheduler.of(1).acquire().expect_err("called off").code);
            scheduler.stop();
            assert_eq!(waiting.join().expect("no panic"), Code::Cancelled);
        });
        assert!(scheduler.stopped());
    }
}
