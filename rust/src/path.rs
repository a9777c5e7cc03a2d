//! Lexical cleaning of the paths in archives. Pure functions, which know nothing of links: the tree resolves those.

use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::whiteout;

/// The plain components of a path below the root: no empty one, no `.`, no `..`, no NUL. The root itself has none.
pub type Components<'a> = Vec<&'a [u8]>;

/// Longest name that Linux filesystems hold, in bytes.
pub const NAME_MAX: usize = 255;

/// Longest target of a symbolic link in any filesystem of Linux (PATH_MAX, with a NUL).
pub const TARGET_MAX: usize = 4095;

/// Refuses a target of a symbolic link that no filesystem of Linux holds.
///
/// # Errors
/// `entry_refused` for more than 4095 bytes.
pub fn check_target(target: &[u8]) -> Result<()> {
    if target.len() > TARGET_MAX {
        let message = format!("a link target of {} bytes: Linux has no more than {TARGET_MAX}", target.len());
        return Err(Error::new(Code::EntryRefused, message));
    }
    Ok(())
}

/// Refuses what no filesystem of Linux takes as a name.
///
/// # Errors
/// `entry_refused` for an empty name, `.`, `..`, a slash or NUL, or more than 255 bytes.
pub fn check_name(name: &[u8]) -> Result<()> {
    let why = match name {
        b"" | b"." | b".." => "is none",
        _ if name.len() > NAME_MAX => "is longer than 255 bytes",
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => "contains a slash or a NUL byte",
        _ => return Ok(()),
    };
    let shown = &name[..name.len().min(60)];
    let dots = if shown.len() < name.len() { "..." } else { "" };
    Err(Error::new(Code::EntryRefused, format!("the name \"{}\"{dots} {why}", shown.escape_ascii())))
}

/// Cleans the path of an entry or the target of a hard link: a leading `/` is dropped, as are `.` and empty
/// components; `..` takes back the component before it. A whiteout may be as much longer than any name as its prefix is,
/// so that the longest names can be hidden; it never becomes a name of the tree.
///
/// # Errors
/// `entry_refused` for an empty path, a NUL, a name over 255 bytes (of a whiteout: without its prefix), or a `..` that
/// leaves the root; `limit_exceeded` for a path beyond `limits`.
pub fn clean<'a>(path: &'a [u8], limits: &Limits) -> Result<Components<'a>> {
    let refuse = |why: &str| Err(Error::new(Code::EntryRefused, why));
    if path.is_empty() {
        return refuse("the path is empty");
    }
    if path.len() > limits.path_bytes {
        let message = format!("a path of {} bytes is longer than {}", path.len(), limits.path_bytes);
        return Err(Error::new(Code::LimitExceeded, message));
    }
    if path.contains(&0) {
        return refuse("the path contains a NUL byte");
    }
    let mut components: Components<'a> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() {
                    return refuse("the path leaves the image's root");
                }
            }
            name => {
                // A whiteout of a long name is longer than any name.
                let whiteout = name.strip_prefix(whiteout::PREFIX).filter(|_| name.len() > NAME_MAX);
                check_name(whiteout.unwrap_or(name))?;
                components.push(name);
            }
        }
    }
    if components.len() > limits.depth {
        let message = format!("a path of {} components is deeper than {}", components.len(), limits.depth);
        return Err(Error::new(Code::LimitExceeded, message));
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(path: &[u8]) -> Result<String> {
        let joined = clean(path, &Limits::default())?.join(&b'/');
        Ok(joined.escape_ascii().to_string())
    }

    #[test]
    fn kept_and_rewritten() -> Result<()> {
        let table: &[(&[u8], &str)] = &[
            (b"a", "a"),
            (b"a/b/", "a/b"),
            (b"./a", "a"),
            (b"/a//b/./c", "a/b/c"),
            (b"a/../b", "b"),
            (b"a/b/../../c", "c"),
            (b".", ""),
            (b"./", ""),
            (b"/", ""),
            (b"a/..", ""),
            (b"...", "..."),
            (b"..a", "..a"),
            (b"a\\..\\b", "a\\\\..\\\\b"),
            (b"\xff\xfe", "\\xff\\xfe"),
        ];
        for (path, expected) in table {
            assert_eq!(cleaned(path)?, *expected);
        }
        Ok(())
    }

    #[test]
    fn a_whiteout_of_the_longest_name_is_kept() -> Result<()> {
        for length in [251, 252, 255] {
            let path = [b".wh.", &vec![b'n'; length][..]].concat();
            assert_eq!(clean(&path, &Limits::default())?, [&path[..]]);
        }
        Ok(())
    }

    #[test]
    fn refused() {
        let long = [b'n'; 256];
        let whiteout = [b".wh.", &long[..]].concat();
        for path in [&b""[..], b"..", b"../a", b"/..", b"a/../../b", b"a\0b", &long, &whiteout] {
            assert_eq!(cleaned(path).expect_err("refused").code, Code::EntryRefused, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn limited() {
        let deep = b"a/".repeat(3000);
        let long = b"abcdefgh/".repeat(10_000);
        for path in [&deep, &long] {
            assert_eq!(cleaned(path).expect_err("limited").code, Code::LimitExceeded);
        }
    }
}
