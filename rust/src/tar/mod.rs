//! Tar archives, read and written as streams.

mod blocks;
mod header;
mod member;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(crate) use header::{damaged_header, looks_like_tar};
pub use reader::{Data, Reader};
pub use writer::{Member, MemberKind, Writer, header};
