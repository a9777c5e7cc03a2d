use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};

use crate::error::{Error, Result};

/// A file of our own on the description behind a descriptor of the caller's.
pub(super) fn duplicate(fd: RawFd) -> Result<File> {
    if fd < 0 {
        return Err(Error::io("cannot use the file descriptor", &std::io::Error::from_raw_os_error(9)));
    }
    // SAFETY: the descriptor is only borrowed for the call below, which fails cleanly when it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let owned = borrowed.try_clone_to_owned().map_err(|error| Error::io("cannot use the file descriptor", &error))?;
    Ok(owned.into())
}
