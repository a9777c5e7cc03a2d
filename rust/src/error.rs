//! The one error of the core: a stable code, a sentence, and the context that the caller adds on the way up.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// `Result` with the core's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What kind of failure it is. The text of a code never changes; Python maps each to one class.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, for the test that compares them with Python's classes.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable snake_case text.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// A digest string that is not `algorithm:hex` of a known algorithm and the right length.
    DigestInvalid = "digest_invalid",
    /// The bytes of a blob do not have the digest of its descriptor.
    DigestMismatch = "digest_mismatch",
    /// The decompressed bytes of a layer do not have its diff ID.
    DiffIdMismatch = "diff_id_mismatch",
    /// A blob is longer or shorter than its descriptor says.
    SizeMismatch = "size_mismatch",
    /// A compressed stream that is damaged or ends early.
    CompressionInvalid = "compression_invalid",
    /// A tar archive that is damaged, ambiguous or ends early.
    TarInvalid = "tar_invalid",
    /// An entry whose path, link or type is refused.
    EntryRefused = "entry_refused",
    /// A bound of `Limits` was passed.
    LimitExceeded = "limit_exceeded",
    /// A path that is not in the tree.
    PathNotFound = "path_not_found",
    /// The output format cannot hold this tree.
    OutputUnsupported = "output_unsupported",
    /// A filesystem image or archive that is damaged, or needs a feature that is not known.
    FilesystemInvalid = "filesystem_invalid",
    /// A finished output does not read back as the tree that it was made of.
    OutputMismatch = "output_mismatch",
    /// The executable is not one that an image can be made of.
    ElfInvalid = "elf_invalid",
    /// What the caller asks for makes no sense, or not for this image.
    Usage = "usage_invalid",
    /// Reading or writing a local file failed.
    Io = "io_error",
    /// The work was called off by the caller.
    Cancelled = "cancelled",
    /// A call that makes no sense (a layer that there is not, a second `finish`): a fault of the calling program.
    Internal = "internal_error",
}

/// A failure of the core.
#[derive(Debug)]
pub struct Error {
    /// The stable kind.
    pub code: Code,
    /// One sentence without a final stop, naming the thing and what is wrong with it.
    pub message: String,
    /// Where it was seen; boxed so that `Result` stays small.
    pub context: Box<Context>,
}

/// Where an [`Error`] was seen. Every field is optional; layers of the code add what they know.
#[derive(Debug, Default)]
pub struct Context {
    /// Digest of the layer's blob.
    pub layer: Option<String>,
    /// Byte offset of the entry's header in the decompressed layer.
    pub offset: Option<u64>,
    /// Path of the entry as it stands in the archive.
    pub path: Option<Vec<u8>>,
    /// What was expected (a digest, a size).
    pub expected: Option<String>,
    /// What was seen instead.
    pub seen: Option<String>,
    /// The system's error number, when a system call failed.
    pub errno: Option<i32>,
}

impl Error {
    /// A failure of kind `code`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), context: Box::default() }
    }

    /// A system call on `what` failed.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => "; allow the process more open files (ulimit -n)",
            _ => "",
        };
        let mut new = Error::new(Code::Io, format!("{what}: {error}{advice}"));
        new.context.errno = error.raw_os_error();
        new
    }

    /// The system allows no more threads.
    pub fn thread(error: &io::Error) -> Self {
        let mut new = Error::io("cannot start a thread", error);
        new.message += "; allow more processes (ulimit -u, or the container's limit)";
        new
    }

    /// Two values that should be equal are not.
    pub fn mismatch(code: Code, what: &str, expected: impl ToString, seen: impl ToString) -> Self {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        let mut new = Error::new(code, format!("{what}: expected {expected}, got {seen}"));
        new.context.expected = Some(expected);
        new.context.seen = Some(seen);
        new
    }

    /// Adds the entry's path and header offset, unless a deeper place has named them.
    #[must_use]
    pub fn at_entry(mut self, path: &[u8], offset: u64) -> Self {
        self.context.path.get_or_insert_with(|| path.to_vec());
        self.context.offset.get_or_insert(offset);
        self
    }

    /// Adds the layer's digest, unless a deeper place has named it.
    #[must_use]
    pub fn in_layer(mut self, digest: &str) -> Self {
        self.context.layer.get_or_insert_with(|| digest.to_owned());
        self
    }
}

impl fmt::Display for Error {
    /// The message, then the layer and the entry in brackets where they are known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let Context { layer, offset, path, .. } = &*self.context;
        if layer.is_none() && path.is_none() {
            return Ok(());
        }
        f.write_str(" (")?;
        if let Some(layer) = layer {
            write!(f, "layer {layer}")?;
        }
        if let Some(path) = path {
            let comma = if layer.is_some() { ", " } else { "" };
            write!(f, "{comma}entry \"{}\"", path.escape_ascii())?;
        }
        if let Some(offset) = offset {
            write!(f, " at byte {offset}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Error {}
