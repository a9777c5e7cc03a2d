//! Sparse files in all encodings.

use ocifast_core::error::Code;
use ocifast_core::limits::Limits;

use super::tar_support::{Header, pax};
use super::{Fate, Row, reads, refused};

/// Octal numbers of twelve bytes, pairs of offset and length.
fn map(pairs: &[(u64, u64)]) -> Vec<u8> {
    let number = |value: u64| format!("{value:011o}\0").into_bytes();
    pairs.iter().flat_map(|&(offset, length)| [number(offset), number(length)].concat()).collect()
}

/// An old GNU sparse header with up to four extents, and the real size.
fn old(pairs: &[(u64, u64)], real: u64) -> Header {
    Header::gnu(b"f", b'S').put(386, &map(pairs)).put(483, format!("{real:011o}\0").as_bytes())
}

fn file(stored: &[u8]) -> Vec<u8> {
    Header::new(b"GNUSparseFile.0/f", b'0').with(stored)
}

pub fn rows() -> Vec<Row> {
    let local = |records: &[(&str, &[u8])]| pax(b'x', records);
    let expected = "f file 644 0 0 0.000000000 \"..abc.d...\"";
    let many: Vec<(u64, u64)> = (0..30).map(|index| (index * 2 + 1, 1)).collect();
    let extension = |pairs: &[(u64, u64)], more: u8| {
        let mut block = map(pairs);
        block.resize(512, 0);
        block[504] = more;
        block
    };
    let letters: Vec<u8> = (0..30).map(|index| b'A' + index).collect();
    let spread: String = letters.iter().map(|&letter| format!(".{}", letter as char)).collect();
    let spread = format!("f file 644 0 0 0.000000000 \"{}\"", spread.as_bytes().escape_ascii());
    let v1 = |map: &[u8], stored: &[u8], real: &[u8]| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", real),
        ];
        let mut data = map.to_vec();
        data.resize(map.len().next_multiple_of(512), 0);
        data.extend_from_slice(stored);
        [pax(b'x', records), file(&data)].concat()
    };
    let v01 = |map: &[u8]| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.map", map),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.size", b"10"),
        ];
        pax(b'x', records)
    };
    let long_map: Vec<u8> = {
        // More than one block of numbers.
        let pairs = (0..200_u32).map(|index| format!("{}\n1\n", index * 2));
        std::iter::once("200\n".to_owned()).chain(pairs).collect::<String>().into_bytes()
    };
    let ones = format!("f file 644 0 0 0.000000000 \"{}\"", "1.".repeat(200));
    let few = Limits { sparse_extents: 1, ..Limits::default() };
    let two = [&old(&[(2, 3), (6, 1)], 10).with(b"abcd")[..], &[0; 1024]].concat();
    vec![
        reads(
            "sparse-1.0-zeros",
            &[v1(&format!("{:0>300}\n{:0>30}\n3\n6\n0001\n", 2, 2).into_bytes(), b"abcd", b"00010")],
            &[expected],
        ),
        reads("sparse-old", &[old(&[(2, 3), (6, 1), (10, 0)], 10).with(b"abcd")], &[expected]),
        reads(
            "sparse-old-extended",
            &[
                old(&many[..4], 60).put(482, b"\x01").size(30).block(),
                extension(&many[4..25], 1),
                extension(&many[25..], 0),
                super::tar_support::padded(&letters),
            ],
            &[&spread],
        ),
        reads(
            "sparse-0.0",
            &[
                local(&[
                    ("GNU.sparse.size", b"10"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"2"),
                    ("GNU.sparse.numbytes", b"3"),
                    ("GNU.sparse.offset", b"6"),
                    ("GNU.sparse.numbytes", b"1"),
                ]),
                Header::new(b"f", b'0').with(b"abcd"),
            ],
            &[expected],
        ),
        reads("sparse-0.1", &[v01(b"2,3,6,1"), file(b"abcd")], &[expected]),
        reads("sparse-1.0", &[v1(b"2\n2\n3\n6\n1\n", b"abcd", b"10")], &[expected]),
        reads("sparse-1.0-long", &[v1(&long_map, &[b'1'; 200], b"400")], &[&ones]),
        reads("sparse-1.0-hole", &[v1(b"0\n", b"", b"3")], &["f file 644 0 0 0.000000000 \"...\""]),
        reads(
            "sparse-name-and-path",
            &[
                local(&[
                    ("GNU.sparse.map", b"0,4"),
                    ("GNU.sparse.name", b"f"),
                    ("GNU.sparse.size", b"4"),
                    ("path", b"GNUSparseFile.0/f"),
                ]),
                file(b"abcd"),
            ],
            &["f file 644 0 0 0.000000000 \"abcd\""],
        ),
        refused("sparse-overlap", &[old(&[(2, 3), (4, 1)], 10).with(b"abcd")], "overlaps or passes 10"),
        refused("sparse-past-end", &[old(&[(8, 4)], 10).with(b"abcd")], "overlaps or passes 10"),
        refused("sparse-stored-more", &[old(&[(2, 3)], 10).with(b"abcd")], "covers 3 bytes, the archive holds 4"),
        refused("sparse-stored-less", &[old(&[(2, 5)], 10).with(b"abcd")], "covers 5 bytes, the archive holds 4"),
        refused("sparse-1.0-garbage", &[v1(b"2\n2\nx\n6\n1\n", b"abcd", b"10")], "not a decimal number"),
        refused(
            "sparse-1.0-short",
            &[v1(&[b"200\n", &b"0\n".repeat(254)[..]].concat(), b"", b"10")],
            "not end within the entry's data",
        ),
        refused("sparse-1.0-padding", &[v1(b"0\nx", b"", b"10")], "followed by something else than zeros"),
        refused("sparse-map-odd", &[v01(b"2,3,6"), file(b"abcd")], "odd count"),
        refused("sparse-map-count", &[v01(b"2,4"), file(b"abcd")], "not GNU.sparse.numblocks entries"),
        refused(
            "sparse-version",
            &[local(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.size", b"1")]), file(b"")],
            "unknown sparse format 2.0",
        ),
        refused(
            "sparse-no-size",
            &[local(&[("GNU.sparse.map", b"0,4")]), file(b"abcd")],
            "the sparse file's size is missing",
        ),
        refused(
            "sparse-two-sizes",
            &[
                local(&[("GNU.sparse.map", b"0,4"), ("GNU.sparse.realsize", b"5"), ("GNU.sparse.size", b"4")]),
                file(b"abcd"),
            ],
            "the sparse file's size is both 5 and 4",
        ),
        refused("sparse-no-map", &[local(&[("GNU.sparse.size", b"4")]), file(b"abcd")], "has no map"),
        refused(
            "sparse-half-pair",
            &[local(&[("GNU.sparse.offset", b"4"), ("GNU.sparse.size", b"4")]), file(b"")],
            "without its GNU.sparse.numbytes",
        ),
        refused("sparse-unknown", &[local(&[("GNU.sparse.kind", b"4")]), file(b"")], "unknown pax record"),
        refused("sparse-directory", &[v01(b"2,3,6,1"), Header::new(b"d", b'5').block()], "is not a regular file"),
        refused(
            "sparse-twice",
            &[v01(b"2,3,6,1"), old(&[(2, 3), (6, 1)], 10).with(b"abcd")],
            "old GNU sparse map and pax",
        ),
        refused("sparse-star", &[Header::new(b"f", b'S').block()], "not of GNU's format"),
        Row {
            name: "limit-sparse",
            archive: two,
            limits: few,
            fate: Fate::Refused(Code::LimitExceeded, "more than 1 extents"),
        },
        Row {
            name: "limit-sparse-size",
            archive: [v1(b"0\n", b"", b"10"), old(&[(2, 3), (6, 1)], 10).with(b"abcd")].concat(),
            limits: Limits { layer_bytes: 19, ..Limits::default() },
            fate: Fate::Refused(Code::LimitExceeded, "20 bytes of sparse files and their holes are more than 19"),
        },
    ]
}
