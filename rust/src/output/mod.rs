//! What a finished tree is written as. Each output walks the tree; what it cannot hold it reports as a [`Loss`].
//!
//! Every writer takes a [`WriteRequest`] and returns what was [`Written`].

mod behind;
pub mod below;
mod compress;
pub mod cpio;
pub mod directory;
mod dump;
pub mod erofs;
pub mod ext4;
mod file_range;
pub mod layer_blob;
mod losses;
mod moved;
mod refused;
mod request;
pub mod squashfs;
pub mod squashfs_tar;
mod tails;
pub mod tar;

pub use compress::{Compressor, StreamCompression};
pub use directory::DirectoryStore;
pub use dump::{dump, tree_digest};
pub use losses::{Loss, Losses};
pub use moved::{move_contents, move_contents_of};
pub use request::{OnProgress, Properties, Source, Target, WriteRequest, Written, content_bytes};

use std::io::Write;
use std::ops::Range;

use crate::contents::{Content, Contents};
use crate::entry::{Mtime, is_device};
use crate::error::{Code, Error, Result};
use crate::path::{check_name, check_target};
use crate::tree::{InodeKind, Tree};

/// Times later than the clamp become the clamp (reproducible-builds.org, SOURCE_DATE_EPOCH).
pub fn clamped(mtime: Mtime, clamp: Option<i64>) -> Mtime {
    match clamp {
        Some(seconds) if mtime >= (Mtime { seconds, nanoseconds: 0 }) => Mtime { seconds, nanoseconds: 0 },
        _ => mtime,
    }
}

/// Refuses a tree that no filesystem of Linux holds. The merge lets nothing of that kind in; every output begins with
/// this all the same, because none of them has room for a longer name or target, and a name that is cut is another one.
///
/// # Errors
/// `output_unsupported`, with the path.
fn refuse_unholdable(tree: &Tree) -> Result<()> {
    for step in tree.walk().filter(|step| step.first) {
        let checked = match &tree.inode(step.inode).kind {
            InodeKind::Symlink(target) => check_target(target),
            InodeKind::Directory(children) => children.keys().try_for_each(|name| check_name(name)),
            _ => Ok(()),
        };
        checked.map_err(|refused| {
            let mut error = Error::new(Code::OutputUnsupported, refused.message);
            error.context.path = Some(step.path);
            error
        })?;
    }
    Ok(())
}

/// A device number as Linux encodes it: 12 bits of the major number, 20 of the minor.
///
/// # Errors
/// `output_unsupported` for one that has more.
fn device_number(major: u32, minor: u32) -> Result<u32> {
    if is_device(major.into(), minor.into()) {
        return Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12));
    }
    let message = format!("the device number {major}:{minor}, beyond Linux's 4095:1048575");
    Err(Error::new(Code::OutputUnsupported, message))
}

/// Bytes read from the contents at a time.
pub const CHUNK: usize = 1 << 20;

/// Hands all bytes of a content on, holes as zeros, through `buffer` (of any size but zero).
///
/// # Errors
/// What reading or `take` returns.
pub fn copy_content(
    contents: &dyn Contents,
    content: &Content,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    copy_range(contents, content, 0..content.size, buffer, &mut take)
}

/// The same with the bytes of a range alone.
fn copy_range(
    contents: &dyn Contents,
    content: &Content,
    range: Range<u64>,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let wanted = usize::try_from(range.end - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = contents.read_at(content, offset, &mut buffer[..wanted])?;
        take(&buffer[..length])?;
        offset += length as u64;
    }
    Ok(())
}

/// How many bytes a writer writes, found out by letting it write with contents that are not read.
///
/// # Errors
/// What `write` returns.
fn size_of(write: impl FnOnce(&dyn Contents, &mut Count) -> Result<()>) -> Result<u64> {
    struct Unread;
    impl Contents for Unread {
        fn read_at(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            Ok(content.size.saturating_sub(offset).min(buffer.len() as u64) as usize)
        }
    }
    let mut count = Count(0);
    write(&Unread, &mut count)?;
    Ok(count.0)
}

/// Counts bytes and drops them.
#[derive(Debug)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Metadata;
    use crate::spool::SpoolStore;
    use crate::tree::InodeId;

    /// A tree that no merge makes: one child of the root, without any check.
    fn forced(name: &[u8], kind: InodeKind) -> Tree {
        let mut tree = Tree::new();
        let child: InodeId = tree.add(Metadata::default(), InodeKind::Fifo).expect("room");
        tree.inode_mut(child).kind = kind;
        tree.link(tree.root(), b"placeholder", child).expect("a name");
        let root = tree.root();
        if let InodeKind::Directory(children) = &mut tree.inode_mut(root).kind {
            children.clear();
            children.insert(name.into(), child);
        }
        tree
    }

    /// The code of the failure of each writer.
    fn written(tree: &Tree) -> Vec<(&'static str, Option<Code>)> {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("a folder");
            path
        };
        let spool = SpoolStore::new(folder.path(), 0);
        let staged = DirectoryStore::new(&make("staged"), 2).expect("a store");
        let erofs = erofs::ErofsStore::create(&make("erofs"), 0).expect("a store");
        let plain = squashfs::Compression::parse("none", None, 4096, true, 1).expect("known");
        let squashed = squashfs::SquashfsStore::new(&plain, folder.path(), 0).expect("a store");
        let lz4 = Some(erofs::Compression::parse("lz4", None, 65536).expect("known"));
        let paths = ["squashfs", "tar", "squashfs.tar", "cpio", "ext4", "flat", "compressed"];
        let paths = paths.map(|name| folder.path().join(format!("out-{name}")));
        let [squashfs, tar, squashfs_tar, cpio, ext4, flat, compressed] =
            paths.each_ref().map(|path| Target::Path(path));
        let target = make("target");
        let from = |contents| Source::new(tree, contents);
        let compression = StreamCompression::None;
        let ext4_options = ext4::Options { size: ext4::Size::Free(0), journal: false };
        let options = directory::Options { owners: true, record: false };
        vec![
            (
                "squashfs",
                squashfs::write(WriteRequest::new(from(&squashed), squashfs, squashfs::Options { compression: plain })),
            ),
            ("tar", tar::write(WriteRequest::new(from(&spool), tar, tar::Options::default()))),
            ("tar for squashfs", squashfs_tar::write(WriteRequest::new(from(&spool), squashfs_tar, ()))),
            ("cpio", cpio::write(WriteRequest::new(from(&spool), cpio, cpio::Options { compression }))),
            ("ext4", ext4::write(WriteRequest::new(from(&spool), ext4, ext4_options))),
            ("erofs", erofs::write(WriteRequest::new(from(&erofs), flat, erofs::Options::default()))),
            (
                "compressed erofs",
                erofs::write(WriteRequest::new(
                    from(&spool),
                    compressed,
                    erofs::Options { compression: lz4, whole_blocks: false },
                )),
            ),
            ("dir", directory::write(WriteRequest::new(from(&staged), Target::Path(&target), options))),
        ]
        .into_iter()
        .map(|(writer, result)| (writer, result.err().map(|error| error.code)))
        .collect()
    }

    #[test]
    fn device_numbers_are_the_kernels() {
        let table = [
            (1, 3, Some(0x103)),
            (4095, 1_048_575, Some(u32::MAX)),
            (259, 256, Some(0x0011_0300)),
            (4096, 0, None),
            (0, 1 << 20, None),
        ];
        for (major, minor, expected) in table {
            assert_eq!(device_number(major, minor).ok(), expected, "{major}:{minor}");
        }
    }

    #[test]
    fn no_writer_cuts_what_it_has_no_room_for() {
        let long = |length| vec![b'n'; length];
        let trees = [
            forced(&long(256), InodeKind::Fifo),
            forced(&long(259), InodeKind::Directory(Default::default())),
            forced(&long(70_000), InodeKind::Fifo),
            forced(b"..", InodeKind::Fifo),
            forced(b"a/b", InodeKind::Fifo),
            forced(b"l", InodeKind::Symlink(long(4096).into())),
        ];
        for tree in &trees {
            for (writer, code) in written(tree) {
                assert_eq!(code, Some(Code::OutputUnsupported), "{writer}");
            }
        }
        for (writer, code) in written(&forced(&long(255), InodeKind::Symlink(long(4095).into()))) {
            assert_eq!(code, None, "{writer}");
        }
    }
}
