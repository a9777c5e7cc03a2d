use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contents::{Content, Contents};
use crate::error::Result;
use crate::output::DirectoryStore;
use crate::output::erofs::ErofsStore;
use crate::output::squashfs::SquashfsStore;
use crate::spool::SpoolStore;

/// The store that holds a tree's contents.
#[derive(Clone)]
pub(super) enum Kept {
    Spool(Arc<SpoolStore>),
    Directory(Arc<DirectoryStore>),
    Erofs(Arc<ErofsStore>),
    Squashfs(Arc<SquashfsStore>),
    /// What was read from an image or archive.
    Image(Arc<dyn Contents>),
}

impl Kept {
    pub(super) fn contents(&self) -> &dyn Contents {
        match self {
            Kept::Spool(store) => &**store,
            Kept::Directory(store) => &**store,
            Kept::Erofs(store) => &**store,
            Kept::Squashfs(store) => &**store,
            Kept::Image(contents) => &**contents,
        }
    }
}

/// Contents that count what is read of them.
pub(super) struct Metered<'a> {
    pub(super) contents: &'a dyn Contents,
    pub(super) taken: &'a AtomicU64,
}

impl Contents for Metered<'_> {
    fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let read = self.contents.read_at(content, offset, buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
