//! What an image says that its tree does not.

use crate::entry::Mtime;
use crate::output::WriteRequest;

/// What an image says that its tree does not.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Identity of the image.
    pub uuid: [u8; 16],
    /// When the image was built. Inodes with just this mtime need half the space of others.
    pub build_time: Mtime,
    /// Later mtimes become this, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
}

impl Identity {
    /// As a request has it.
    pub fn of<O>(request: &WriteRequest<'_, O>) -> Self {
        let build_time = Mtime { seconds: request.created, nanoseconds: 0 };
        Identity { uuid: request.uuid, build_time, clamp_mtime: request.clamp_mtime }
    }
}
