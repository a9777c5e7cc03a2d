//! The limit of open files, raised for a time.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit belongs to the whole process, which may be somebody else's: the first that needs more raises it, the last
/// puts it back.
struct LimitUse {
    users: usize,
    before: Option<Rlimit>,
}

static SHARED: Mutex<LimitUse> = Mutex::new(LimitUse { users: 0, before: None });

/// While one lives, the process may have as many files open as the system allows it.
pub(crate) struct RaisedLimit;

impl RaisedLimit {
    pub fn new() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.users += 1;
        if shared.users == 1 {
            // Where it may not be raised, whoever needed it fails with the limit that there is.
            shared.before = limit().filter(|before| {
                setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum }).is_ok()
            });
        }
        RaisedLimit
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.users -= 1;
        if shared.users > 0 {
            return;
        }
        if let Some(before) = shared.before.take() {
            // Somebody else's change meanwhile stays.
            if limit().is_some_and(|now| (now.current, now.maximum) == (before.maximum, before.maximum)) {
                let _ = setrlimit(Resource::Nofile, before);
            }
        }
    }
}

/// The present limit; `None` where the system call is refused, as a service's filter may do.
///
/// `getrlimit` of `rustix` panics when it is refused. So an invalid limit is set first: the kernel answers EINVAL and
/// changes nothing (setrlimit(2)), a filter answers otherwise.
fn limit() -> Option<Rlimit> {
    let none = Rlimit { current: Some(1), maximum: Some(0) };
    (setrlimit(Resource::Nofile, none) == Err(Errno::INVAL)).then(|| getrlimit(Resource::Nofile))
}
