//! The limit of open files, raised for a time.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit belongs to the whole process, which may be somebody else's: the first that needs more raises it, the last
/// puts it back.
struct Shared {
    users: usize,
    before: Option<Rlimit>,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared { users: 0, before: None });

/// While one lives, the process may have as many files open as the system allows it.
pub(crate) struct RaisedLimit;

impl RaisedLimit {
    pub fn new() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.users += 1;
        if shared.users == 1 {
            let before = getrlimit(Resource::Nofile);
            // Where it may not be raised, whoever needed it fails with the limit that there is.
            let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
            shared.before = raised.is_ok().then_some(before);
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
            let now = getrlimit(Resource::Nofile);
            // Somebody else's change meanwhile stays.
            if (now.current, now.maximum) == (before.maximum, before.maximum) {
                let _ = setrlimit(Resource::Nofile, before);
            }
        }
    }
}
