//! Errors that name the entry at which a directory could not be made.

use rustix::io::Errno;

use crate::error::Error;
use crate::output::refused::is_refusal;

/// A call failed for an entry.
pub(super) fn failed(what: &str, name: &[u8], error: Errno) -> Error {
    Error::io(format_args!("cannot {what} \"{}\"", name.escape_ascii()), &error.into())
}

/// The error of a link that a rootfs cannot do without.
pub(super) fn unlinked(what: &str, name: &[u8], error: Errno) -> Error {
    let mut failed = failed(what, name, error);
    if is_refusal(error) || error == Errno::MLINK {
        failed.message += "; make the directory on a file system that has such links, or write a tar or an image here";
    }
    failed
}
