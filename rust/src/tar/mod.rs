//! Tar archives, read and written as streams.

mod blocks;
mod header;
mod member;
mod pax;
mod reader;
mod sparse;
mod values;
mod writer;

pub(crate) use header::{Header, HeaderFormat, damaged_header, looks_like_tar};
pub use reader::{Data, Reader};
pub(crate) use values::{base64, digits_of, first_record, percent, time};
pub use writer::{Member, MemberKind, Writer};
