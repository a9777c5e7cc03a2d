//! What the path of an entry makes of it.

use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::path::{self, Components};
use crate::whiteout::{self, Whiteout};

/// What the last component, or one before it, makes of an entry.
#[derive(Debug)]
pub(crate) enum Fate<'a> {
    Kept(Components<'a>),
    Whiteout { parent: Components<'a>, name: &'a [u8] },
    Opaque { directory: Components<'a> },
    Bookkeeping,
}

/// Whether an entry is one of the image, and of which path, or says something of lower layers.
pub(crate) fn fate<'a>(path: &'a [u8], limits: &Limits) -> Result<Fate<'a>> {
    let mut components = path::clean(path, limits)?;
    let Some(name) = components.pop() else {
        return Ok(Fate::Kept(components));
    };
    for parent in &components {
        match whiteout::classify(parent)? {
            Whiteout::None => {}
            Whiteout::Bookkeeping => return Ok(Fate::Bookkeeping),
            Whiteout::Name(_) | Whiteout::Opaque => {
                return Err(Error::new(Code::EntryRefused, "the path goes through a whiteout"));
            }
        }
    }
    Ok(match whiteout::classify(name)? {
        Whiteout::None => {
            components.push(name);
            Fate::Kept(components)
        }
        Whiteout::Name(name) => Fate::Whiteout { parent: components, name },
        Whiteout::Opaque => Fate::Opaque { directory: components },
        Whiteout::Bookkeeping => Fate::Bookkeeping,
    })
}

/// What an entry of a layer is about, by its path alone: the path of the image, and "whiteout", "opaque" or
/// "bookkeeping" where it says something of lower layers.
///
/// # Errors
/// As the merge, for a path that it refuses.
pub fn stated(path: &[u8]) -> Result<(Vec<u8>, Option<&'static str>)> {
    Ok(match fate(path, &Limits::default())? {
        Fate::Kept(components) => (components.join(&b'/'), None),
        Fate::Whiteout { mut parent, name } => {
            parent.push(name);
            (parent.join(&b'/'), Some("whiteout"))
        }
        Fate::Opaque { directory } => (directory.join(&b'/'), Some("opaque")),
        Fate::Bookkeeping => (path::clean(path, &Limits::default())?.join(&b'/'), Some("bookkeeping")),
    })
}
