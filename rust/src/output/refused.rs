//! How a file system, a container or a kernel says that it does not do something at all.

use rustix::io::Errno;

/// Whether a call was refused for what it asks: by the file system, which has no such thing, by a filter of system calls,
/// or for want of rights. Trying again changes nothing, and nothing is broken. A disk that is full or fails is not meant.
pub(super) fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::ROFS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_disk_is_no_refusal() {
        for error in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::NOMEM, Errno::MFILE, Errno::STALE] {
            assert!(!is_refusal(error), "{error}");
        }
    }
}
