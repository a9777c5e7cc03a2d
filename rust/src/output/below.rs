//! Files below a folder of this machine on their way into a tar: opened through no link, read with their holes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, SeekFrom, openat, seek};
#[cfg(target_os = "linux")]
use rustix::fs::{ResolveFlags, openat2};
use rustix::io::Errno;

use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::tar::{self, Member, MemberKind};

/// A regular file below a folder.
#[derive(Clone, Debug)]
pub struct Below {
    /// The folder.
    pub folder: Arc<OwnedFd>,
    /// Relative, without `..`.
    pub path: PathBuf,
}

impl Below {
    /// Opens the file; nobody who changes the folder meanwhile can lead us out of it.
    fn open(&self) -> std::result::Result<File, Errno> {
        // A pipe or a device that took the file's place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        // Kernels before 5.6, filters of system calls, and other systems do not have it.
        #[cfg(target_os = "linux")]
        {
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let opened = openat2(&self.folder, &self.path, flags, Mode::empty(), inside);
            if !matches!(opened, Err(Errno::NOSYS | Errno::PERM)) {
                return Ok(opened?.into());
            }
        }
        self.open_stepwise(flags)
    }

    fn open_stepwise(&self, flags: OFlags) -> std::result::Result<File, Errno> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Err(Errno::INVAL) };
        let mut at = Arc::clone(&self.folder);
        for component in parent.components() {
            let Component::Normal(component) = component else { return Err(Errno::INVAL) };
            let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = Arc::new(openat(&at, component, step, Mode::empty())?);
        }
        Ok(openat(&at, name, flags, Mode::empty())?.into())
    }

    /// Writes the file as a member.
    ///
    /// # Errors
    /// `io_error` when it cannot be read; `size_mismatch` when it is no regular file of `size` bytes any more.
    pub(super) fn append<W: Write>(
        &self,
        path: &[u8],
        metadata: &Metadata,
        size: u64,
        buffer: &mut [u8],
        writer: &mut tar::Writer<W>,
    ) -> Result<()> {
        let failed = |error: io::Error| Error::io(format!("cannot read {}", self.path.display()), &error);
        let file = self.open().map_err(|errno| failed(errno.into()))?;
        let state = file.metadata().map_err(failed)?;
        if !state.is_file() || state.len() != size {
            return Err(self.changed());
        }
        let data = stretches(&file, size);
        let is_whole = data == [(0, size)] || size == 0;
        let kind = if is_whole { MemberKind::File { size } } else { MemberKind::SparseFile { size, data: &data } };
        writer.append(&Member { path, metadata, kind })?;
        for (mut at, mut left) in data {
            while left > 0 {
                let part = &mut buffer[..left.min(1 << 19) as usize];
                let read = file.read_at(part, at).map_err(failed)?;
                if read == 0 {
                    return Err(self.changed());
                }
                writer.write_data(&part[..read])?;
                (at, left) = (at + read as u64, left - read as u64);
            }
        }
        Ok(())
    }

    fn changed(&self) -> Error {
        let message = format!("{} was changed while it was read; read it when nobody writes", self.path.display());
        Error::new(Code::SizeMismatch, message)
    }
}

/// Where a file has data (lseek(2), SEEK_DATA); all of it where that is not known.
fn stretches(file: &File, size: u64) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) if begin < size => begin,
            // Nothing but a hole follows.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return vec![(0, size)],
        };
        at = match seek(file, SeekFrom::Hole(begin)) {
            Ok(end) if end > begin => end.min(size),
            _ => size,
        };
        found.push((begin, at - begin));
    }
    found
}
