//! The table of fates of `docs/tar.md`, row by row: what becomes of each thing that can stand in an archive.

#[path = "../tar_support/mod.rs"]
mod tar_support;

mod ends;
mod headers;
mod mutated;
mod pax;
mod sparse;
mod types;

use std::collections::BTreeMap;
use std::fmt::Write;

use ocifast_core::entry::{Entry, Kind};
use ocifast_core::error::Code;
use ocifast_core::limits::Limits;
use ocifast_core::tar::{Data, Reader};
use tar_support::{END, Short, read_all};

/// What is expected of a row's archive.
enum Fate {
    /// It reads as these lines.
    Reads(String),
    /// It is refused with this code and with a message that has this in it.
    Refused(Code, &'static str),
}

/// One row of the table.
struct Row {
    name: &'static str,
    archive: Vec<u8>,
    limits: Limits,
    fate: Fate,
}

/// A row whose parts (end blocks are added) read as `lines`.
fn reads(name: &'static str, parts: &[Vec<u8>], lines: &[&str]) -> Row {
    let lines = lines.iter().flat_map(|line| [line, "\n"]).collect();
    Row { name, archive: [&parts.concat()[..], &END].concat(), limits: Limits::default(), fate: Fate::Reads(lines) }
}

/// A row whose parts are refused as `tar_invalid`.
fn refused(name: &'static str, parts: &[Vec<u8>], message: &'static str) -> Row {
    refused_as(name, parts, Code::TarInvalid, message)
}

fn refused_as(name: &'static str, parts: &[Vec<u8>], code: Code, message: &'static str) -> Row {
    let archive = [&parts.concat()[..], &END].concat();
    Row { name, archive, limits: Limits::default(), fate: Fate::Refused(code, message) }
}

/// `PATH TYPE MODE UID GID MTIME XATTRS DATA`, the data with `.` for zeros.
fn line(entry: &Entry, data: &[u8]) -> String {
    let kind = match &entry.kind {
        Kind::File { size } => {
            assert_eq!(*size, data.len() as u64, "data are as long as the size says");
            "file".to_owned()
        }
        Kind::Directory => "directory".to_owned(),
        Kind::Symlink { target } => format!("symlink={}", target.escape_ascii()),
        Kind::HardLink { target } => format!("link={}", target.escape_ascii()),
        Kind::CharDevice { major, minor } => format!("char={major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("block={major}:{minor}"),
        Kind::Fifo => "fifo".to_owned(),
    };
    let mut text = format!("{} {kind} {:o}", entry.path.escape_ascii(), entry.metadata.mode);
    let metadata = &entry.metadata;
    let mtime = metadata.mtime;
    let _ = write!(text, " {} {} {}.{:09}", metadata.uid, metadata.gid, mtime.seconds, mtime.nanoseconds);
    for (name, value) in metadata.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        let _ = write!(text, " {}={}", name.escape_ascii(), value.escape_ascii());
    }
    if !data.is_empty() {
        let zeros_as_dots: Vec<u8> = data.iter().map(|&byte| if byte == 0 { b'.' } else { byte }).collect();
        let _ = write!(text, " \"{}\"", zeros_as_dots.escape_ascii());
    }
    text
}

fn rows() -> Vec<Row> {
    [headers::rows(), types::rows(), pax::rows(), sparse::rows(), ends::rows()].into_iter().flatten().collect()
}

#[test]
fn every_row_ends_as_it_should() {
    let mut wrong = Vec::new();
    for row in rows() {
        // The fate must not depend on the pieces in which the bytes come.
        for pieces in [&[usize::MAX >> 1][..], &[1], &[511, 513, 7]] {
            let read = read_all(Short::new(&row.archive, pieces), &row.limits);
            let seen = match &read {
                Ok(entries) => entries.iter().map(|(entry, data)| line(entry, data) + "\n").collect(),
                Err(error) => format!("{}: {error}", error.code.as_str()),
            };
            let right = match (&row.fate, &read) {
                (Fate::Reads(lines), Ok(_)) => *lines == seen,
                (Fate::Refused(code, message), Err(error)) => error.code == *code && seen.contains(message),
                _ => false,
            };
            if !right {
                wrong.push(format!("{}: {seen}", row.name));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_document_has_the_same_rows_and_fates() {
    let document = include_str!("../../../docs/tar.md");
    let mut told = BTreeMap::new();
    for text in document.lines().filter(|text| text.starts_with("| `")) {
        let cells: Vec<&str> = text.split('|').map(|cell| cell.trim_matches([' ', '`'])).collect();
        // The table of what we write has less columns.
        let ["", name, _, fate, _, ""] = cells[..] else { continue };
        assert_eq!(told.insert(name, fate), None, "{name} stands twice");
    }
    let rows = rows();
    let mut seen = BTreeMap::new();
    for row in &rows {
        let mut reader = Reader::new(&row.archive[..], row.limits.clone());
        let mut refused = false;
        loop {
            match reader.next_entry() {
                Ok(Some(_)) => while let Ok(Some(_)) = reader.next_data() {},
                Ok(None) => break,
                Err(_) => {
                    refused = true;
                    break;
                }
            }
        }
        // Whether a value was rewritten the rows' own lines show.
        let fate = match told.get(row.name).copied() {
            _ if refused => "refused",
            _ if reader.dropped_records() > 0 => "dropped",
            Some(fate @ ("kept" | "rewritten")) => fate,
            _ => "kept",
        };
        assert_eq!(seen.insert(row.name, fate), None, "{} stands twice", row.name);
    }
    let differ = told.keys().chain(seen.keys()).filter(|name| told.get(*name) != seen.get(*name));
    let differ: Vec<_> = differ.map(|name| format!("{name}: {:?}, {:?}", told.get(name), seen.get(name))).collect();
    assert!(differ.is_empty(), "document and archive tell\n{}", differ.join("\n"));
}

#[test]
fn errors_name_the_entry_and_where_it_is() {
    let first = tar_support::Header::new(b"first", b'0').with(b"data");
    let second = tar_support::Header::new(b"second", b'0').put(108, b"77x").block();
    let error = read_all(&[first, second].concat()[..], &Limits::default()).expect_err("refused");
    let expected = r#"the uid field "77x0000\x00" is not an octal number (entry "second" at byte 1024)"#;
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_failed_reader_stays_failed() {
    let archive = [&b"x"[..], &[0; 511]].concat();
    let mut reader = Reader::new(&archive[..], Limits::default());
    assert!(reader.next_entry().is_err());
    assert!(reader.next_entry().is_err());
    assert!(reader.next_data().is_err());
}

#[test]
fn data_that_are_not_read_are_skipped() {
    let file = |name: &[u8]| tar_support::Header::new(name, b'0').with(&[7; 1500]);
    let archive = [&file(b"a")[..], &file(b"b"), &END].concat();
    let mut reader = Reader::new(Short::new(&archive, &[100]), Limits::default());
    let a = reader.next_entry().expect("readable").expect("there");
    assert_eq!(reader.next_data().expect("readable"), Some(Data::Bytes(&[7; 88])), "the rest of a piece of 100");
    let b = reader.next_entry().expect("readable").expect("there");
    assert_eq!((&a.path[..], a.offset, &b.path[..], b.offset), (&b"a"[..], 0, &b"b"[..], 2048));
    assert_eq!(reader.next_entry().expect("readable"), None);
    assert_eq!(reader.next_entry().expect("readable"), None);
}

#[test]
fn what_follows_the_end_blocks_stays_unread() {
    let archive = [&END[..], b"tail"].concat();
    let mut reader = Reader::new(&archive[..], Limits::default());
    assert_eq!(reader.next_entry().expect("readable"), None);
    assert_eq!(reader.into_inner(), b"tail");
}
