//! Which layer decompresses now.
//!
//! A core goes to the lowest layer that wants one, because the merge takes layers in order. The store of erofs images
//! (`ErofsStore`) keeps contents in that order as well: it copies what was written before its place was known. So a higher
//! layer also leaves a core alone for a moment that a lower layer has just put down. The store of squashfs images
//! (`SquashfsStore`) leaves out what upper layers hide, and wants the highest layer first. Those that spool contents, or
//! write them into a directory, ask for no order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::decompress::{ROOM, Room};
use crate::error::{Code, Error, Result};
use crate::layer::Cores;

/// How long a core is kept for a lower layer before a higher one gets it. Long enough for a thread that is about to
/// bring bytes to be scheduled, short against the 9 ms that one buffer takes at 30 MB/s, what a connection often gives.
const PATIENCE: Duration = Duration::from_millis(3);

/// Cores, given to the first layers that are not complete: the lowest, or the highest.
pub(crate) struct Scheduler {
    from_top: bool,
    state: Mutex<State>,
    /// One for each layer, by rank. Of the layers that wait only the first can be next, so that one alone is woken.
    wake: Vec<Condvar>,
    stop: AtomicBool,
    /// For what is inflated ahead.
    room: Arc<Room>,
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// Neither has nor wants a core, since then.
    Away(Instant),
    Waiting,
    Running,
    /// Nothing is left to decode.
    Complete,
}

struct State {
    cores: usize,
    /// By rank: a layer's place in the order.
    layers: Vec<Activity>,
    /// Cores that inflate ahead for layers.
    lent: usize,
    /// How long a core was free, up to the last change of `layers`.
    idle: Duration,
    changed: Instant,
}

impl State {
    fn free(&self) -> usize {
        self.cores - self.lent - self.layers.iter().filter(|&&activity| activity == Activity::Running).count()
    }

    /// How long a core was free up to now.
    fn idle(&self, now: Instant) -> Duration {
        self.idle + if self.free() > 0 { now.duration_since(self.changed) } else { Duration::ZERO }
    }

    /// The layer that gets a core next, if one is free.
    fn next(&self) -> Option<usize> {
        self.layers.iter().position(|&activity| activity == Activity::Waiting).filter(|_| self.free() > 0)
    }

    /// Whether a core is left over: no layer waits for one, and none is reserved for the first layers, as `patience` has it.
    fn has_spare(&self, now: Instant) -> bool {
        let incomplete = self.layers.iter().filter(|&&activity| activity != Activity::Complete);
        let is_reserved = |activity: &&Activity| match activity {
            Activity::Away(since) => now.duration_since(*since) < PATIENCE,
            _ => false,
        };
        !self.layers.contains(&Activity::Waiting)
            && incomplete.take(self.cores).filter(is_reserved).count() < self.free()
    }

    /// How long a layer waits unless it is woken before; `None`: it takes a core now. `began` is what `idle` said when it
    /// began to wait.
    ///
    /// The lowest layers come first, as many as there are cores. A free core is reserved for each of them that is away,
    /// for `PATIENCE` after it last ran. No layer leaves cores unused for longer than `PATIENCE` in all, so that a slow
    /// download, which would renew the reservation with every byte, cannot hold a core idle.
    fn patience(&self, rank: usize, began: Duration, now: Instant) -> Option<Duration> {
        if self.next() != Some(rank) {
            return Some(Duration::MAX);
        }
        let rest = |passed: Duration| PATIENCE.checked_sub(passed).filter(|rest| !rest.is_zero());
        let incomplete = self.layers.iter().enumerate().filter(|&(_, &activity)| activity != Activity::Complete);
        let mut reserved = Vec::new();
        for (first, activity) in incomplete.take(self.cores) {
            match activity {
                _ if first == rank => return None,
                Activity::Away(since) => reserved.extend(rest(now.duration_since(*since))),
                _ => {}
            }
        }
        if reserved.len() < self.free() {
            return None;
        }
        reserved.push(rest(self.idle(now) - began)?);
        reserved.into_iter().min()
    }
}

impl Scheduler {
    /// For so many layers; `from_top` says whether the highest is the first.
    pub(crate) fn new(cores: usize, layers: usize, from_top: bool) -> Self {
        let changed = Instant::now();
        let all = vec![Activity::Away(changed); layers];
        let state = State { cores: cores.max(1), layers: all, lent: 0, idle: Duration::ZERO, changed };
        let wake = (0..layers).map(|_| Condvar::new()).collect();
        let (stop, room) = (AtomicBool::new(false), Arc::new(Room::new(ROOM)));
        Scheduler { from_top, state: Mutex::new(state), wake, stop, room }
    }

    /// Whether all work was called off.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The cores of one of the layers.
    pub(crate) fn of(&self, layer: u32) -> LayerCores<'_> {
        let layer = layer as usize;
        LayerCores { scheduler: self, rank: if self.from_top { self.wake.len() - 1 - layer } else { layer } }
    }

    /// Nothing more is decoded of a layer, which has no core.
    pub(crate) fn complete(&self, layer: u32) {
        self.set(&mut self.state(), self.of(layer).rank, Activity::Complete);
    }

    /// Calls all work off.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _state = self.state();
        self.wake.iter().for_each(Condvar::notify_one);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves nothing half-done behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a layer does from now on, and has the next one look whether it may have a core.
    fn set(&self, state: &mut State, rank: usize, activity: Activity) {
        self.change(state, |state| state.layers[rank] = activity, Some(rank));
    }

    /// Changes who has a core, and has the next layer look whether it may have one; not the one that brings this about.
    fn change(&self, state: &mut State, change: impl FnOnce(&mut State), by: Option<usize>) {
        let now = Instant::now();
        state.idle = state.idle(now);
        state.changed = now;
        change(state);
        if let Some(next) = state.next().filter(|&next| Some(next) != by) {
            self.wake[next].notify_one();
        }
    }
}

/// One layer's way to a core.
pub(crate) struct LayerCores<'t> {
    scheduler: &'t Scheduler,
    rank: usize,
}

impl Cores for LayerCores<'_> {
    fn acquire(&self) -> Result<()> {
        let &LayerCores { scheduler, rank } = self;
        let mut state = scheduler.state();
        scheduler.set(&mut state, rank, Activity::Waiting);
        let began = state.idle;
        loop {
            if scheduler.stopped() {
                return Err(Error::new(Code::Cancelled, "the work was called off"));
            }
            let Some(patience) = state.patience(rank, began, Instant::now()) else {
                scheduler.set(&mut state, rank, Activity::Running);
                return Ok(());
            };
            state = scheduler.wake[rank].wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn release(&self) {
        self.scheduler.set(&mut self.scheduler.state(), self.rank, Activity::Away(Instant::now()));
    }

    fn must_yield(&self) -> bool {
        self.scheduler.stopped() || self.scheduler.state().layers[..self.rank].contains(&Activity::Waiting)
    }

    fn room(&self) -> Option<Arc<Room>> {
        (self.scheduler.state().cores > 1).then(|| Arc::clone(&self.scheduler.room))
    }

    fn is_idle(&self) -> bool {
        self.scheduler.state().has_spare(Instant::now())
    }

    fn lend(&self) -> bool {
        let mut state = self.scheduler.state();
        let lent = state.has_spare(Instant::now()) && !self.scheduler.stopped();
        if lent {
            self.scheduler.change(&mut state, |state| state.lent += 1, None);
        }
        lent
    }

    fn give_back(&self, more: bool) -> bool {
        let mut state = self.scheduler.state();
        if more && !state.layers.contains(&Activity::Waiting) && !self.scheduler.stopped() {
            return true;
        }
        self.scheduler.change(&mut state, |state| state.lent -= 1, None);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::Activity::{Away, Complete, Running, Waiting};
    use super::*;

    /// What a layer does in the table below; `Gone` is away for so many tenths of `PATIENCE`.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        Gone(u32),
        Runs,
        Ended,
    }

    /// What `patience` says, in tenths of `PATIENCE`, to a layer above all these that has waited for so many tenths while
    /// a core was free.
    fn patience(cores: usize, below: &[Does], waited: u32) -> Option<u32> {
        let part = PATIENCE / 10;
        let now = Instant::now() + PATIENCE;
        let layers = below.iter().map(|&does| match does {
            Does::Gone(parts) => Away(now - parts * part),
            Does::Runs => Running,
            Does::Ended => Complete,
        });
        let layers = layers.chain([Waiting]).collect();
        let state = State { cores, layers, lent: 0, idle: waited * part, changed: now };
        let rest = state.patience(below.len(), Duration::ZERO, now);
        rest.map(|rest| u32::try_from(rest.as_nanos() / part.as_nanos()).unwrap_or(u32::MAX))
    }

    #[test]
    fn a_core_is_kept_for_a_lower_layer_for_a_while() {
        use Does::{Ended, Gone, Runs};
        let table: [(usize, &[Does], u32, Option<u32>); 14] = [
            // The lowest: at once.
            (1, &[], 0, None),
            (2, &[Gone(0)], 0, None),
            // One core, which a lower layer has just left, or left long ago.
            (1, &[Gone(2)], 0, Some(8)),
            (1, &[Gone(10)], 0, None),
            // A lower layer that comes and goes is waited for no longer than this.
            (1, &[Gone(2)], 9, Some(1)),
            (1, &[Gone(0)], 10, None),
            // A layer at work has its core and keeps no other one.
            (2, &[Runs, Gone(4)], 0, Some(6)),
            (2, &[Runs, Gone(10)], 0, None),
            // Two are kept: the first to fall free is waited for. A third core is kept for nobody.
            (2, &[Gone(3), Gone(7)], 0, Some(3)),
            (3, &[Gone(3), Gone(7), Gone(10)], 0, None),
            // Only as many layers as there are cores come first.
            (1, &[Gone(10), Gone(0)], 0, None),
            // No core is free: it waits until it is woken.
            (2, &[Runs, Runs], 10, Some(u32::MAX)),
            // A complete layer counts no more: it keeps nothing, and is none of the first.
            (1, &[Ended], 0, None),
            (1, &[Ended, Gone(4), Ended, Gone(0)], 0, Some(6)),
        ];
        for (cores, below, waited, expected) in table {
            assert_eq!(patience(cores, below, waited), expected, "{cores} {below:?} {waited}");
        }
    }

    #[test]
    fn a_layer_is_away_from_its_release_to_its_next_turn() -> Result<()> {
        let scheduler = Scheduler::new(1, 2, false);
        let does = || {
            let letter = |activity: &Activity| match activity {
                Away(_) => 'a',
                Waiting => 'w',
                Running => 'r',
                Complete => 'c',
            };
            let state = scheduler.state();
            (state.layers.iter().map(letter).collect::<String>(), state.free())
        };
        assert_eq!(does(), ("aa".into(), 1));
        scheduler.of(0).acquire()?;
        assert_eq!(does(), ("ra".into(), 0));
        scheduler.of(0).release();
        assert_eq!(does(), ("aa".into(), 1));
        scheduler.complete(0);
        scheduler.of(1).acquire()?;
        assert_eq!(does(), ("cr".into(), 0));
        scheduler.of(1).release();
        scheduler.complete(1);
        assert_eq!(does(), ("cc".into(), 1));
        Ok(())
    }

    #[test]
    fn time_counts_as_idle_while_a_core_is_free() {
        let part = Duration::from_millis(1);
        let scheduler = Scheduler::new(2, 3, false);
        let mut state = scheduler.state();
        (state.layers, state.idle) = (vec![Running, Running, Waiting], part);
        let before = state.changed;
        assert_eq!(state.idle(before + part), part);
        state.layers[1] = Complete;
        assert_eq!(state.idle(before + part), 2 * part);
        // A change adds what has passed, and counts on from there.
        state.changed = Instant::now() - part;
        scheduler.set(&mut state, 2, Running);
        assert!(state.idle >= 2 * part);
        assert_eq!(state.idle(state.changed + part), state.idle);
    }

    #[test]
    fn as_many_layers_run_as_there_are_cores() {
        for (cores, most) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
            let scheduler = Scheduler::new(cores, 6, false);
            let (running, highest) = (AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for layer in 0..6 {
                    let (scheduler, running, highest) = (&scheduler, &running, &highest);
                    scope.spawn(move || {
                        let core = scheduler.of(layer);
                        for _ in 0..50 {
                            core.acquire().expect("its turn comes");
                            highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            running.fetch_sub(1, Ordering::SeqCst);
                            core.release();
                        }
                        scheduler.complete(layer);
                    });
                }
            });
            assert!((1..=most).contains(&highest.into_inner()), "{cores}");
        }
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
                assert!(!scheduler.of(layers[0]).must_yield());
                for layer in layers[1..].iter().copied() {
                    let (scheduler, said) = (&scheduler, said.clone());
                    scope.spawn(move || {
                        scheduler.of(layer).acquire().expect("its turn comes");
                        said.send(layer).expect("heard");
                        scheduler.of(layer).release();
                    });
                    while scheduler.state().layers[scheduler.of(layer).rank] != Waiting {
                        std::thread::yield_now();
                    }
                }
                assert!(scheduler.of(layers[0]).must_yield(), "earlier layers wait");
                assert!(!scheduler.of(layers[2]).must_yield(), "only later layers wait");
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
        assert!(scheduler.stopped() && scheduler.of(0).must_yield());
    }
}
