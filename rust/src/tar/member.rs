//! One entry out of its header and the extension headers before it: which of them counts, and what is refused.

use std::sync::Arc;

use super::header::{Header, HeaderFormat, path_limit};
use super::pax::PaxRecords;
use super::sparse;
use crate::entry::{Kind, Metadata, Mtime, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;
use crate::path::check_target;

/// What extension headers say about the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pax: Option<PaxRecords>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// How the data of an entry are stored.
#[derive(Debug)]
pub(super) enum Body {
    /// There are none.
    None,
    /// As they are.
    Plain { size: u64 },
    /// With a map in the old GNU header and blocks that follow it.
    OldSparse { stored: u64 },
    /// With a map of which pax records tell.
    PaxSparse { stored: u64, records: sparse::Records },
}

/// An entry whose data have not been begun; the size of a sparse file is not known yet.
#[derive(Debug)]
pub(super) struct PendingEntry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) metadata: Metadata,
    pub(super) body: Body,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::TarInvalid, message)
}

impl Extensions {
    /// Whether no extension header has come.
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }

    /// Takes a pax header.
    pub(super) fn pax(&mut self, records: PaxRecords) -> Result<()> {
        if self.pax.replace(records).is_some() {
            return Err(invalid("two pax headers stand before one entry"));
        }
        Ok(())
    }

    /// Takes a GNU long name (`L`) or long link target (`K`): `bytes` are whole blocks, of which `size` are the name's.
    /// It ends with a NUL that is counted; what came after a NUL, or after `size` bytes, would be seen by some readers
    /// only.
    pub(super) fn gnu(&mut self, flag: u8, bytes: &[u8], size: usize, limits: &Limits) -> Result<()> {
        let (bytes, padding) = bytes.split_at(size);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(invalid("a GNU long name goes on after the size that its header says"));
        }
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(end);
        if name.is_empty() || rest.iter().any(|&byte| byte != 0) {
            return Err(invalid("a GNU long name is empty or goes on after a NUL byte"));
        }
        path_limit(name, limits)?;
        let slot = if flag == b'L' { &mut self.path } else { &mut self.link };
        if slot.replace(name.to_vec()).is_some() {
            return Err(invalid("two GNU long names stand before one entry"));
        }
        Ok(())
    }

    /// Brings a header, its extensions and the global records together. `shared` are the attributes of an earlier
    /// entry, used again where they are the same.
    ///
    /// # Errors
    /// `tar_invalid` for what is ambiguous or impossible, `entry_refused` for a type that is not one of an image,
    /// `limit_exceeded` for a long path.
    pub(super) fn resolve(
        self,
        header: &Header<'_>,
        format: HeaderFormat,
        globals: &PaxRecords,
        shared: &mut Xattrs,
        limits: &Limits,
    ) -> Result<PendingEntry> {
        let mut pax = self.pax.unwrap_or_default();
        let sparse = pax.sparse.take();
        let sparse_name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let pax_path = pax.path.is_some() || sparse_name.is_some();
        if self.path.is_some() && pax_path || self.link.is_some() && pax.link.is_some() {
            return Err(invalid("the entry has both a GNU long name and a pax one"));
        }
        let path = sparse_name.or(pax.path.take()).or(self.path).unwrap_or_else(|| header.path(format));
        if path.is_empty() || path.contains(&0) {
            return Err(invalid("the entry's path is empty or has a NUL byte"));
        }
        path_limit(&path, limits)?;
        let target = pax.link.take().or(self.link);
        let link = || {
            let target = target.unwrap_or_else(|| header.link().to_vec());
            if target.is_empty() { Err(invalid("the link has no target")) } else { Ok(target) }
        };
        let kind = match header.type_flag() {
            0 | b'0' | b'7' | b'S' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File { size: 0 },
            b'1' => Kind::HardLink { target: link()? },
            b'2' => {
                let target = link()?;
                check_target(&target)?;
                Kind::Symlink { target }
            }
            flag @ (b'3' | b'4') => {
                let (major, minor) = pax.device(header.dev_major()?, header.dev_minor()?)?;
                if flag == b'3' { Kind::CharDevice { major, minor } } else { Kind::BlockDevice { major, minor } }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => return Err(refused_type(flag)),
        };
        if header.type_flag() == b'S' && format != HeaderFormat::Gnu {
            return Err(invalid("the entry is of GNU's sparse type, and the header is not of GNU's format"));
        }
        let body = body(header, &kind, pax.size, sparse)?;
        let metadata = metadata(header, pax, globals, shared)?;
        Ok(PendingEntry { path, kind, metadata, body })
    }
}

/// Which data follow. Readers that disagree on this read different entries from one archive, so whatever is
/// ambiguous is refused.
fn body(header: &Header<'_>, kind: &Kind, pax_size: Option<u64>, sparse: Option<sparse::Records>) -> Result<Body> {
    let flag = header.type_flag();
    if matches!(flag, b'1'..=b'6') {
        // GNU tar obeys a pax size all the same, the others do not.
        if let Some(size) = pax_size.filter(|&size| size > 0) {
            return Err(invalid(format!("the entry is of a type without data and has a pax size of {size}")));
        }
        // The header's size means nothing for a directory (POSIX, "ustar Interchange Format") and a hard link, as all
        // readers have it. On others GNU tar passes over as many bytes when it lists the archive, and only then.
        let size = header.size()?;
        if size > 0 && !matches!(flag, b'1' | b'5') {
            return Err(invalid(format!("the entry is of a type without data and has a size of {size}")));
        }
        if sparse.is_some() {
            return Err(invalid("the entry has sparse records and is not a regular file"));
        }
        return Ok(Body::None);
    }
    let stored = pax_size.map_or_else(|| header.size(), Ok)?;
    match (kind, flag, sparse) {
        // A regular file whose name ends with a slash is the directory of archives before ustar, and of some after.
        (Kind::Directory, 0 | b'0' | b'7', None) if stored == 0 => Ok(Body::None),
        (Kind::Directory, ..) => Err(invalid("the entry's name is one of a directory, and it has data")),
        (_, b'S', Some(_)) => Err(invalid("the entry has an old GNU sparse map and pax sparse records")),
        (_, b'S', None) => Ok(Body::OldSparse { stored }),
        (_, _, Some(records)) => Ok(Body::PaxSparse { stored, records }),
        (_, _, None) => Ok(Body::Plain { size: stored }),
    }
}

fn metadata(header: &Header<'_>, pax: PaxRecords, globals: &PaxRecords, shared: &mut Xattrs) -> Result<Metadata> {
    let uid = pax.uid.or(globals.uid).flatten().map_or_else(|| header.uid(), Ok)?;
    let gid = pax.gid.or(globals.gid).flatten().map_or_else(|| header.gid(), Ok)?;
    let header_mtime = || Ok(Mtime { seconds: header.mtime()?, nanoseconds: 0 });
    let mtime = pax.mtime.or(globals.mtime).flatten().map_or_else(header_mtime, Ok)?;
    let xattrs = if pax.xattrs.is_empty() {
        None
    } else {
        if shared.as_deref() != Some(&pax.xattrs) {
            *shared = Some(Arc::new(pax.xattrs));
        }
        shared.clone()
    };
    Ok(Metadata { mode: header.mode()?, uid, gid, mtime, xattrs })
}

fn refused_type(flag: u8) -> Error {
    let name = match flag {
        b'D' => "GNU directory listing of an incremental archive",
        b'M' => "GNU continuation of a file from another volume",
        b'N' => "old GNU long names",
        b'A' => "Solaris access control list",
        b'E' => "Solaris extended attribute",
        b'I' => "star inode",
        _ => "unknown",
    };
    let message = format!("an entry of type '{}' ({name}) has no place in an image", flag.escape_ascii());
    Error::new(Code::EntryRefused, message)
}
