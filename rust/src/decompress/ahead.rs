//! Parts of streams that are inflated ahead, by whoever has nothing else to do, in bounded memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inflated::Inflated;
use super::part::StreamPart;
use super::place::MOST;
use super::room::{Reserved, Room, Space};

/// Buffers that a stream keeps for its next parts.
const SPARE: usize = 4;

struct Job {
    number: u64,
    part: StreamPart,
    space: Space,
    done: SyncSender<Option<Inflated>>,
}

/// The parts of one stream that wait for somebody to inflate them.
pub struct Ahead {
    room: Arc<Room>,
    wanted: AtomicBool,
    taken: AtomicU64,
    wrong: AtomicBool,
    waiting: Mutex<VecDeque<Job>>,
    spare: Mutex<Vec<Space>>,
}

/// A part that waits or is being inflated.
pub(super) struct Pending {
    number: u64,
    done: Receiver<Option<Inflated>>,
    /// Of its compressed bytes.
    _reserved: Reserved,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves nothing half-done behind it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ahead {
    /// For one stream. Nothing is inflated ahead before it is wanted.
    pub fn new(room: Arc<Room>) -> Self {
        Ahead {
            room,
            wanted: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            wrong: AtomicBool::new(false),
            waiting: Mutex::default(),
            spare: Mutex::default(),
        }
    }

    /// Says whether there is somebody who could inflate ahead: only then it is looked for what could be.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether there is something to do that nobody has begun.
    pub fn is_waiting(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    /// Inflates the first part that nobody has begun; false when there is none.
    pub fn work(&self) -> bool {
        let Some(Job { part, space, done, .. }) = lock(&self.waiting).pop_front() else {
            return false;
        };
        // Nobody takes it any more when it cannot be sent.
        let _ = done.send(part.inflate(space));
        true
    }

    /// How many parts were what came next, so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether restart points were found to be wrong.
    pub fn is_wrong(&self) -> bool {
        self.wrong.load(Ordering::Relaxed)
    }

    pub(super) fn tell_wrong(&self) {
        self.wrong.store(true, Ordering::Relaxed);
    }

    pub(super) fn count_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Hands a part over, numbered in the order of the stream; `None` where there is no room for it.
    pub(super) fn hand_over(&self, number: u64, part: impl FnOnce() -> StreamPart, length: usize) -> Option<Pending> {
        // Of its bytes this is the copy; the input has them as well.
        let reserved = self.room.reserve(2 * length)?;
        let spare = lock(&self.spare).pop();
        let space = match spare {
            Some(space) => space,
            None => {
                let reserved = self.room.reserve(MOST)?;
                Space { bytes: vec![0; MOST], _reserved: reserved }
            }
        };
        let (done, receiver) = sync_channel(1);
        lock(&self.waiting).push_back(Job { number, part: part(), space, done });
        Some(Pending { number, done: receiver, _reserved: reserved })
    }

    /// Takes back a part that nobody has begun; false when somebody has.
    pub(super) fn take_back(&self, pending: &Pending) -> bool {
        let job = {
            let mut waiting = lock(&self.waiting);
            let at = waiting.iter().position(|job| job.number == pending.number);
            at.and_then(|at| waiting.remove(at))
        };
        let Some(job) = job else { return false };
        self.give_back(job.space);
        true
    }

    /// What came of a part that somebody has begun; `None` for nothing. Whoever waits does other parts meanwhile.
    pub(super) fn wait(&self, pending: &Pending) -> Option<Inflated> {
        loop {
            if let Ok(done) = pending.done.try_recv() {
                return done;
            }
            if !self.work() {
                return pending.done.recv().ok().flatten();
            }
        }
    }

    pub(super) fn give_back(&self, space: Space) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE {
            spare.push(space);
        }
    }

    /// Nothing that waits is wanted any more.
    pub(super) fn clear(&self) {
        lock(&self.waiting).clear();
    }
}
