//! One image layer from a list of members: the tar, its diff ID, the compressed blob and its digest, in one pass.
//!
//! Every file is read once and every byte of the blob written once; memory is a few buffers, whatever the files' size.
//! The blob is a function of the members alone (image-spec, layer.md, "Creating"): see [`tar::Writer`] for the tar and
//! [`Compressor`] for what it is wrapped in.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::output::below::Below;
use crate::output::request::{Properties, Target, WriteRequest, Written};
use crate::output::{Compressor, StreamCompression};
use crate::tar::{self, Member, MemberKind};

/// Bytes of a buffer between a file and the layer.
const CHUNK: usize = 512 << 10;

/// What a path of the layer is.
#[derive(Clone, Debug)]
pub enum MemberContent {
    /// The bytes of a regular file on disk.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its size as the caller knows it; another one is an error.
        size: u64,
    },
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// The data of a regular file below a folder of this machine, its holes kept.
    Below {
        /// Where it is, by the folder's file descriptor and a path from there that goes through no link.
        file: Below,
        /// Its size as the caller knows it; another one is an error.
        size: u64,
    },
    /// Another name of the member at this path, which stands before.
    HardLink(Vec<u8>),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One member of the layer, in the order of the list.
#[derive(Clone, Debug)]
pub struct LayerMember {
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// Mode, owner, time, attributes.
    pub metadata: Metadata,
    /// Type and contents.
    pub content: MemberContent,
}

/// What is chosen about a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Of the blob.
    pub compression: StreamCompression,
}

/// Writes the blob of a layer, and tells its digest and its diff ID.
///
/// # Errors
/// `io_error` when a file cannot be read or the target not be written; `size_mismatch` when a file has another size than
/// its member says; `output_unsupported` for what a tar cannot hold.
pub fn write(request: WriteRequest<'_, Options, &[LayerMember]>) -> Result<Written> {
    let WriteRequest { source, target, options, .. } = request;
    let output = match target {
        Target::At(file, offset) => Positioned::new(file, offset),
        other => Positioned::new(other.file()?, 0),
    };
    write_blob(source, options.compression, output)
}

/// Writes the blob to `output`.
fn write_blob(members: &[LayerMember], compression: StreamCompression, output: impl Write) -> Result<Written> {
    let output = BufWriter::with_capacity(CHUNK, output);
    let written = |digest, size, diff_id| {
        let properties = Properties { digest: Some(digest), diff_id: Some(diff_id), ..Properties::default() };
        Written { bytes: Some(size), losses: Vec::new(), properties }
    };
    if compression == StreamCompression::None {
        // Digest and diff ID are the same, and worked out once.
        let (diff_id, _, size) = write_tar(members, output)?.finish();
        return Ok(written(diff_id.clone(), size, diff_id));
    }
    let (diff_id, compressor, _) = write_tar(members, Compressor::new(Hashed::new(output), compression)?)?.finish();
    let (digest, mut output, size) = compressor.finish()?.finish();
    output.flush().map_err(|error| Error::io("cannot write the layer", &error))?;
    Ok(written(digest, size, diff_id))
}

/// The members as a tar, in one pass; returns `output` with what went into it summed up.
fn write_tar<W: Write>(members: &[LayerMember], output: W) -> Result<Hashed<W>> {
    let mut writer = tar::Writer::new(Hashed::new(output));
    let mut buffer = vec![0; CHUNK];
    for LayerMember { path, metadata, content } in members {
        if let MemberContent::Below { file, size } = content {
            file.append(path, metadata, *size, &mut buffer, &mut writer)?;
            continue;
        }
        let kind = match content {
            MemberContent::File { size, .. } => MemberKind::File { size: *size },
            MemberContent::Bytes(bytes) => MemberKind::File { size: bytes.len() as u64 },
            MemberContent::Directory => MemberKind::Directory,
            MemberContent::Symlink(target) => MemberKind::Symlink(target),
            MemberContent::Below { size, .. } => MemberKind::File { size: *size },
            MemberContent::HardLink(target) => MemberKind::HardLink(target),
            MemberContent::CharDevice(major, minor) => MemberKind::CharDevice { major: *major, minor: *minor },
            MemberContent::BlockDevice(major, minor) => MemberKind::BlockDevice { major: *major, minor: *minor },
            MemberContent::Fifo => MemberKind::Fifo,
        };
        writer.append(&Member { path, metadata, kind })?;
        match content {
            MemberContent::File { path, size } => {
                copy_file(path, *size, &mut buffer, |data| writer.write_data(data))?;
            }
            MemberContent::Bytes(bytes) => writer.write_data(bytes)?,
            _ => {}
        }
    }
    writer.finish()
}

/// Hands on the bytes of a file that must have `size` of them.
fn copy_file(path: &Path, size: u64, buffer: &mut [u8], mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("cannot read {}", path.display()), &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut left = size;
    loop {
        let count = match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(failed)?,
        };
        if count as u64 > left || (count == 0 && left > 0) {
            let change = if count == 0 { "shorter" } else { "longer" };
            let message = format!("{} became {change} than {size} bytes while it was read", path.display());
            return Err(Error::new(Code::SizeMismatch, message));
        }
        if count == 0 {
            return Ok(());
        }
        write(&buffer[..count])?;
        left -= count as u64;
    }
}

/// Hashes and counts what is written through it.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Hashed { inner, hasher: Hasher::new(Algorithm::Sha256), bytes: 0 }
    }

    /// Digest of all bytes, what they were written to, and their number.
    fn finish(self) -> (Digest, W, u64) {
        (self.hasher.finish(), self.inner, self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes to a place in a file, whatever its position is and whoever else writes to other places.
#[derive(Debug)]
struct Positioned {
    file: File,
    offset: u64,
}

impl Positioned {
    /// The first byte goes to `offset`.
    fn new(file: File, offset: u64) -> Self {
        Positioned { file, offset }
    }
}

impl Write for Positioned {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(data, self.offset)?;
        self.offset += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;
    use crate::entry::{Kind, Mtime};
    use crate::limits::Limits;
    use crate::tar::{Data, Reader};

    fn member(path: &str, mode: u16, content: MemberContent) -> LayerMember {
        let metadata = Metadata { mode, mtime: Mtime { seconds: 1, nanoseconds: 0 }, ..Metadata::default() };
        LayerMember { path: path.into(), metadata, content }
    }

    fn members(file: &Path) -> Vec<LayerMember> {
        vec![
            member("etc", 0o755, MemberContent::Directory),
            member("etc/passwd", 0o644, MemberContent::Bytes(b"root:x:0:0::/:\n".to_vec())),
            member("etc/link", 0o777, MemberContent::Symlink(b"passwd".to_vec())),
            member("hello", 0o755, MemberContent::File { path: file.into(), size: 3_000_001 }),
            member("empty", 0o644, MemberContent::Bytes(Vec::new())),
        ]
    }

    /// A file that does not repeat itself within the window of a compressor.
    fn sample(folder: &Path) -> Result<PathBuf> {
        let path = folder.join("sample");
        let mut state = 1_u64;
        let data: Vec<u8> = (0..3_000_001)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 60) as u8
            })
            .collect();
        std::fs::write(&path, data).map_err(|error| Error::io("sample", &error))?;
        Ok(path)
    }

    fn listing(tar: &[u8]) -> Result<Vec<String>> {
        let mut reader = Reader::new(BufReader::new(tar), Limits::default());
        let mut lines = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            while let Some(data) = reader.next_data()? {
                if let Data::Bytes(bytes) = data {
                    hasher.update(bytes);
                }
            }
            let kind = match entry.kind {
                Kind::File { size } => format!("file {size} {}", &hasher.finish().as_str()[7..19]),
                other => format!("{other:?}"),
            };
            let Metadata { mode, uid, gid, mtime, .. } = entry.metadata;
            lines.push(format!("{} {mode:o} {uid}:{gid} {} {kind}", entry.path.escape_ascii(), mtime.seconds));
        }
        Ok(lines)
    }

    fn decompressed(compression: StreamCompression, blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        match compression {
            StreamCompression::None => tar.extend_from_slice(blob),
            StreamCompression::Gzip { .. } => drop(flate2::read::GzDecoder::new(blob).read_to_end(&mut tar)?),
            StreamCompression::Zstd { .. } => drop(zstd::stream::read::Decoder::new(blob)?.read_to_end(&mut tar)?),
        }
        Ok(tar)
    }

    const ALL: [StreamCompression; 3] =
        [StreamCompression::None, StreamCompression::Gzip { level: 6 }, StreamCompression::Zstd { level: 3 }];

    #[test]
    fn the_tar_is_the_members_and_the_digests_are_of_what_was_written() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|error| Error::io("folder", &error))?;
        let members = members(&sample(folder.path())?);
        for compression in ALL {
            let mut blob = Vec::new();
            let layer = write_blob(&members, compression, &mut blob)?;
            assert_eq!(layer.properties.digest, Some(Digest::of(&blob)), "{compression:?}");
            assert_eq!(layer.bytes, Some(blob.len() as u64), "{compression:?}");
            let tar = decompressed(compression, &blob).map_err(|error| Error::io("blob", &error))?;
            assert_eq!(layer.properties.diff_id, Some(Digest::of(&tar)), "{compression:?}");
            assert_eq!(
                listing(&tar)?,
                [
                    "etc/ 755 0:0 1 Directory",
                    "etc/passwd 644 0:0 1 file 15 e381bf694300",
                    "etc/link 777 0:0 1 Symlink { target: [112, 97, 115, 115, 119, 100] }",
                    "hello 755 0:0 1 file 3000001 b98b179ef133",
                    "empty 644 0:0 1 file 0 e3b0c44298fc",
                ]
            );
        }
        Ok(())
    }

    #[test]
    fn pinned_digests() -> Result<()> {
        // A change here changes the digest of every image that users build: only on purpose, and with a line in the
        // changelog.
        let folder = tempfile::tempdir().map_err(|error| Error::io("folder", &error))?;
        let members = members(&sample(folder.path())?);
        let digests: Vec<String> = ALL
            .into_iter()
            .map(|compression| {
                let written = write_blob(&members, compression, io::sink())?;
                Ok(written.properties.digest.expect("a digest").as_str()[7..23].to_owned())
            })
            .collect::<Result<_>>()?;
        assert_eq!(digests, ["f4de320d623637ed", "011c0a714b284ead", "17124eee1d6ac596"]);
        Ok(())
    }

    #[test]
    fn nothing_of_the_machine_stands_in_the_gzip_header() -> Result<()> {
        let mut blob = Vec::new();
        write_blob(&[], StreamCompression::Gzip { level: 6 }, &mut blob)?;
        assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        Ok(())
    }

    #[test]
    fn a_file_of_another_size_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|error| Error::io("folder", &error))?;
        let path = sample(folder.path())?;
        for (size, word) in [(3_000_000, "longer"), (3_000_002, "shorter"), (0, "longer")] {
            let members = [member("a", 0o755, MemberContent::File { path: path.clone(), size })];
            let error = write_blob(&members, StreamCompression::None, io::sink()).expect_err("refused");
            assert_eq!(error.code, Code::SizeMismatch);
            assert!(error.message.contains(word), "{}", error.message);
        }
        let missing = [member("a", 0o755, MemberContent::File { path: folder.path().join("none"), size: 1 })];
        assert_eq!(write_blob(&missing, StreamCompression::None, io::sink()).expect_err("refused").code, Code::Io);
        Ok(())
    }

    #[test]
    fn a_failing_output_is_told() {
        let mut room = [0; 600];
        let error = write_blob(&[], StreamCompression::None, Cursor::new(&mut room[..])).expect_err("refused");
        assert_eq!(error.code, Code::Io);
    }

    #[test]
    fn positions_are_kept() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        file.write_all_at(b"..........", 0)?;
        Positioned::new(file.try_clone()?, 3).write_all(b"abc")?;
        let mut all = [0; 10];
        file.read_exact_at(&mut all, 0)?;
        assert_eq!(&all, b"...abc....");
        Ok(())
    }
}
