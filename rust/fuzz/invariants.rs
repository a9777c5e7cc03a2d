//! What has to hold for any bytes. Shared by the fuzz targets and the tests.
#![allow(dead_code, reason = "each user needs a part")]

use std::io::{BufReader, Read};

use ocifast_core::decompress::Decompressor;
use ocifast_core::entry::{Entry, Kind};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::tar::{Data, Member, MemberKind, Reader, Writer};

/// Bytes of one file that are looked at; holes may be as long as they like.
const ENOUGH: u64 = 1 << 20;

fn limits() -> Limits {
    Limits {
        layer_bytes: 16 << 20,
        extension_bytes: 64 << 10,
        sparse_extents: 1000,
        zstd_window_log: 20,
        ..Limits::default()
    }
}

/// Reads any bytes as an archive: it must not panic, must say the same however the bytes come, must give each file as
/// many bytes as its size says, and what it accepts must survive being written and read again.
pub fn tar(bytes: &[u8]) {
    let whole = read(bytes);
    let pieces = read(BufReader::with_capacity(1, bytes));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces, "the same entries however the bytes come");
            round_trip(whole);
        }
        (Err(whole), Err(pieces)) => assert_eq!(whole.to_string(), pieces.to_string()),
        (whole, pieces) => panic!("accepted and refused: {whole:?}, {pieces:?}"),
    }
}

type Whole = (Entry, Vec<u8>);

fn read(archive: impl std::io::BufRead) -> Result<Vec<Whole>> {
    let mut reader = Reader::new(archive, limits());
    let (mut entries, mut last) = (Vec::new(), None);
    while let Some(entry) = reader.next_entry()? {
        assert!(last < Some(entry.offset), "headers follow one another");
        last = Some(entry.offset);
        let (mut data, mut length) = (Vec::new(), 0);
        while let Some(piece) = reader.next_data()? {
            let step = match piece {
                Data::Bytes(bytes) => {
                    assert!(!bytes.is_empty());
                    if length < ENOUGH {
                        data.extend_from_slice(bytes);
                    }
                    bytes.len() as u64
                }
                Data::Hole(hole) => {
                    assert!(hole > 0);
                    data.resize(data.len() + hole.min(ENOUGH) as usize, 0);
                    hole
                }
            };
            length += step;
        }
        let size = if let Kind::File { size } = entry.kind { size } else { 0 };
        assert_eq!(length, size, "as many bytes as the size says");
        assert!(entry.metadata.mode <= 0o7777 && entry.metadata.mtime.nanoseconds < 1_000_000_000);
        assert!(!entry.path.is_empty() && !entry.path.contains(&0));
        entries.push((entry, data));
    }
    Ok(entries)
}

fn round_trip(entries: Vec<Whole>) {
    let small = |(entry, _): &Whole| !matches!(entry.kind, Kind::File { size } if size >= ENOUGH);
    let mut writer = Writer::new(Vec::new());
    let mut expected = Vec::new();
    for (mut entry, data) in entries.into_iter().filter(small) {
        if entry.kind == Kind::Directory && !entry.path.ends_with(b"/") {
            entry.path.push(b'/');
        } else if entry.kind != Kind::Directory && entry.path.ends_with(b"/") {
            // A link or device whose name ends with a slash is for the tree to judge.
            continue;
        }
        let member = Member { path: &entry.path, metadata: &entry.metadata, kind: member_kind(&entry.kind) };
        writer.append(&member).expect("what is read can be written");
        writer.write_data(&data).expect("what is read can be written");
        entry.offset = 0;
        expected.push((entry, data));
    }
    let archive = writer.finish().expect("complete");
    let mut again = read(&archive[..]).expect("what is written can be read");
    again.iter_mut().for_each(|(entry, _)| entry.offset = 0);
    assert_eq!(again, expected);
}

fn member_kind(kind: &Kind) -> MemberKind<'_> {
    match kind {
        Kind::File { size } => MemberKind::File { size: *size },
        Kind::Directory => MemberKind::Directory,
        Kind::Symlink { target } => MemberKind::Symlink(target),
        Kind::HardLink { target } => MemberKind::HardLink(target),
        Kind::CharDevice { major, minor } => MemberKind::CharDevice { major: *major, minor: *minor },
        Kind::BlockDevice { major, minor } => MemberKind::BlockDevice { major: *major, minor: *minor },
        Kind::Fifo => MemberKind::Fifo,
    }
}

/// Decompresses any bytes: it must not panic, and must say the same however the bytes come and go.
pub fn decompress(bytes: &[u8]) {
    let whole = inflate(bytes, 1 << 20);
    let pieces = inflate(BufReader::with_capacity(3, bytes), 777);
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => assert!(whole == pieces, "the same bytes however they come"),
        (Err(whole), Err(pieces)) => assert_eq!(whole.code, pieces.code, "{whole}, {pieces}"),
        (whole, pieces) => panic!("accepted and refused: {whole:?}, {pieces:?}"),
    }
}

fn inflate(blob: impl Read, chunk: usize) -> Result<Vec<u8>> {
    let mut layer = Decompressor::new(blob, &limits());
    let (mut all, mut out) = (Vec::new(), vec![0; chunk]);
    loop {
        match layer.read_chunk(&mut out)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&out[..count]),
        }
    }
}
