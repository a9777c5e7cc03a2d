//! Whiteout names (OCI image-spec, layer.md, "Whiteouts"; AUFS for the rest).

use crate::error::{Code, Error, Result};

/// What the last component of a path begins with when it is a whiteout.
pub const PREFIX: &[u8] = b".wh.";

/// What the last component of a path says about lower layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// An ordinary name.
    None,
    /// `.wh.NAME`: NAME of lower layers is hidden.
    Name(&'a [u8]),
    /// `.wh..wh..opq`: all children of lower layers are hidden.
    Opaque,
    /// `.wh..wh.*`: bookkeeping of AUFS, nothing of the image.
    Bookkeeping,
}

/// Reads the last component of a path, whatever the entry's type: some builders write whiteouts as hard links or
/// devices.
///
/// # Errors
/// `entry_refused` when the hidden name would be empty, `.` or `..`.
pub fn classify(name: &[u8]) -> Result<Whiteout<'_>> {
    let Some(hidden) = name.strip_prefix(PREFIX) else {
        return Ok(Whiteout::None);
    };
    match hidden {
        b".wh..opq" => Ok(Whiteout::Opaque),
        b"" | b"." | b".." => {
            Err(Error::new(Code::EntryRefused, format!("whiteout \"{}\" hides no name", name.escape_ascii())))
        }
        _ if hidden.starts_with(PREFIX) => Ok(Whiteout::Bookkeeping),
        _ => Ok(Whiteout::Name(hidden)),
    }
}

/// Whether an attribute tells overlayfs what to do.
pub fn steers(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() -> Result<()> {
        let table: &[(&[u8], Whiteout<'_>)] = &[
            (b"a", Whiteout::None),
            (b"x.wh.a", Whiteout::None),
            (b".wh", Whiteout::None),
            (b".wh.a", Whiteout::Name(b"a")),
            (b".wh.\xff", Whiteout::Name(b"\xff")),
            (b".wh....", Whiteout::Name(b"...")),
            (b".wh..a", Whiteout::Name(b".a")),
            (b".wh..wh..opq", Whiteout::Opaque),
            (b".wh..wh.plnk", Whiteout::Bookkeeping),
            (b".wh..wh.aufs", Whiteout::Bookkeeping),
            (b".wh..wh.", Whiteout::Bookkeeping),
            (b".wh..wh..opqx", Whiteout::Bookkeeping),
        ];
        for (name, expected) in table {
            assert_eq!(classify(name)?, *expected, "{}", name.escape_ascii());
        }
        Ok(())
    }

    #[test]
    fn a_whiteout_without_a_name_is_refused() {
        for name in [&b".wh."[..], b".wh..", b".wh..."] {
            let error = classify(name).expect_err("refused");
            assert_eq!(error.code, Code::EntryRefused);
        }
    }
}
