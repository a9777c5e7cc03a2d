//! The cores that layers share: a layer's own, and those that are left over.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;

use crate::decompress::{Ahead, Room};
use crate::error::Result;

/// Decides which layer may use a core now.
pub trait Cores: Sync {
    /// Waits until it is this layer's turn.
    ///
    /// # Errors
    /// `cancelled` when all work was called off.
    fn acquire(&self) -> Result<()>;
    /// Gives the core back; called once for each `acquire` that succeeded.
    fn release(&self);
    /// Whether the core is to be given back between two pieces of work: an earlier layer waits for one, or all work was
    /// called off. Always, where nothing is known of other layers.
    fn must_yield(&self) -> bool {
        true
    }
    /// Where layers may put what is inflated ahead of their turn; `None` where no core is ever left over for that.
    fn room(&self) -> Option<Arc<Room>> {
        None
    }
    /// Whether a core is left over, which no layer waits for.
    fn is_idle(&self) -> bool {
        false
    }
    /// Takes such a core, if there is one; it is to be given back soon.
    fn lend(&self) -> bool {
        false
    }
    /// Gives back a core that was lent. With `more` it is kept where no layer waits for it; says whether it is.
    fn give_back(&self, _more: bool) -> bool {
        false
    }
}

/// Threads that inflate parts of one layer ahead. Reading and hashing what comes keeps up with no more of them.
const HELPERS: usize = 3;

/// The threads that inflate parts of one layer ahead, while cores are left over.
pub(super) struct Helpers<'s, 'e> {
    scope: &'s Scope<'s, 'e>,
    cores: &'e dyn Cores,
    ahead: Arc<Ahead>,
    busy: Arc<AtomicUsize>,
}

impl<'s, 'e> Helpers<'s, 'e> {
    pub(super) fn new(scope: &'s Scope<'s, 'e>, cores: &'e dyn Cores, ahead: &Arc<Ahead>) -> Self {
        Helpers { scope, cores, ahead: Arc::clone(ahead), busy: Arc::default() }
    }

    /// Has parts looked for only where there is somebody who could inflate them.
    pub(super) fn tell(&self) {
        self.ahead.want(self.busy.load(Ordering::Relaxed) > 0 || self.cores.is_idle());
    }

    /// Has one more thread work if there is work, and a core for it. A thread that cannot be started is done without.
    pub(super) fn engage(&self) {
        if self.busy.load(Ordering::Relaxed) == HELPERS || !self.ahead.is_waiting() || !self.cores.lend() {
            return;
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let lent = Lent { cores: self.cores, busy: Arc::clone(&self.busy), had: true };
        let ahead = Arc::clone(&self.ahead);
        let work = move || {
            let mut lent = lent;
            while ahead.work() && lent.keep() {}
        };
        // What cannot be started gives back the core, as it is dropped.
        let _ = std::thread::Builder::new().name("inflate-ahead".into()).spawn_scoped(self.scope, work);
    }
}

/// A core that was lent. The one place that gives it back, on a panic too.
struct Lent<'t> {
    cores: &'t dyn Cores,
    busy: Arc<AtomicUsize>,
    had: bool,
}

impl Lent<'_> {
    /// Whether it may be kept: no layer waits for it.
    fn keep(&mut self) -> bool {
        self.had = self.cores.give_back(true);
        self.had
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if self.had {
            self.cores.give_back(false);
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A layer's core, had or not. The one place that gives it back, once for each time that it was got; on a panic too,
/// which would else leave the other layers waiting for ever.
pub(super) struct Permit<'t> {
    cores: &'t dyn Cores,
    had: Cell<bool>,
}

impl<'t> Permit<'t> {
    pub(super) fn new(cores: &'t dyn Cores) -> Self {
        Permit { cores, had: Cell::new(false) }
    }

    /// Waits for the core unless the layer has it.
    pub(super) fn take(&self) -> Result<()> {
        if !self.had.get() {
            self.cores.acquire()?;
            self.had.set(true);
        }
        Ok(())
    }

    /// Gives the core back between two pieces of work, if it must: each time costs a wake-up or two.
    pub(super) fn rest(&self) {
        if self.cores.must_yield() {
            self.park();
        }
    }

    /// Gives the core back if the layer has it.
    pub(super) fn park(&self) {
        if self.had.take() {
            self.cores.release();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.park();
    }
}
