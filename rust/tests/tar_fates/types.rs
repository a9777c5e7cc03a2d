//! Type flags, and what their data are.

use ocifast_core::error::Code;
use ocifast_core::limits::Limits;

use super::tar_support::{END, Header, long, pax, read_all};
use super::{Row, reads, refused, refused_as};

pub fn rows() -> Vec<Row> {
    let device = |flag, major: &[u8], minor: &[u8]| Header::new(b"d", flag).put(329, major).put(337, minor).block();
    let next = || Header::new(b"next", b'0').with(b"y");
    let next_line = "next file 644 0 0 0.000000000 \"y\"";
    let unknown = |name, flag| refused_as(name, &[Header::new(b"f", flag).block()], Code::EntryRefused, "of type");
    vec![
        reads("file", &[Header::new(b"f", b'0').with(b"x")], &["f file 644 0 0 0.000000000 \"x\""]),
        reads("file-nul", &[Header::new(b"f", 0).with(b"x")], &["f file 644 0 0 0.000000000 \"x\""]),
        reads("file-contiguous", &[Header::new(b"f", b'7').with(b"x")], &["f file 644 0 0 0.000000000 \"x\""]),
        reads("directory", &[Header::new(b"d/", b'5').block()], &["d/ directory 644 0 0 0.000000000"]),
        reads("directory-v7", &[Header::v7(b"d/", 0).block()], &["d/ directory 644 0 0 0.000000000"]),
        reads("directory-file", &[Header::new(b"d/", b'0').block()], &["d/ directory 644 0 0 0.000000000"]),
        refused("directory-with-data", &[Header::v7(b"d/", 0).with(b"x")], "one of a directory, and it has data"),
        reads(
            "directory-size",
            &[Header::new(b"d", b'5').size(512).block(), next()],
            &["d directory 644 0 0 0.000000000", next_line],
        ),
        reads(
            "symlink",
            &[Header::new(b"l", b'2').link(b"../\xff").block(), next()],
            &["l symlink=../\\xff 644 0 0 0.000000000", next_line],
        ),
        reads(
            "link-100",
            &[Header::new(b"l", b'2').link(&[b't'; 100]).block()],
            &[&format!("l symlink={} 644 0 0 0.000000000", "t".repeat(100))],
        ),
        reads("hard-link", &[Header::new(b"l", b'1').link(b"f").block()], &["l link=f 644 0 0 0.000000000"]),
        reads(
            "hard-link-size",
            &[Header::new(b"l", b'1').link(b"f").size(512).block(), next()],
            &["l link=f 644 0 0 0.000000000", next_line],
        ),
        reads(
            "symlink-4095",
            &[long(b'K', &[b't'; 4095]), Header::gnu(b"l", b'2').block()],
            &[&format!("l symlink={} 644 0 0 0.000000000", "t".repeat(4095))],
        ),
        refused_as(
            "symlink-4096",
            &[pax(b'x', &[("linkpath", &[b't'; 4096])]), Header::new(b"l", b'2').block()],
            Code::EntryRefused,
            "a link target of 4096 bytes: Linux has no more than 4095",
        ),
        refused("link-empty", &[Header::new(b"l", b'2').block()], "the link has no target"),
        refused("hard-link-empty", &[Header::new(b"l", b'1').block()], "the link has no target"),
        reads(
            "device",
            &[device(b'3', b"0007777\0", b"3777777\0"), device(b'4', b"0000010\0", b"0000001\0")],
            &["d char=4095:1048575 644 0 0 0.000000000", "d block=8:1 644 0 0 0.000000000"],
        ),
        refused("device-major", &[device(b'3', b"0010000\0", b"0000000\0")], "4096:0 does not fit"),
        refused("device-minor", &[device(b'4', b"0000000\0", b"4000000\0")], "0:1048576 does not fit"),
        reads("fifo", &[Header::new(b"p", b'6').block()], &["p fifo 644 0 0 0.000000000"]),
        refused(
            "no-data-pax-size",
            &[pax(b'x', &[("size", b"512")]), Header::new(b"l", b'1').link(b"f").block(), vec![0; 512]],
            "without data and has a pax size of 512",
        ),
        refused("no-data-size", &[Header::new(b"p", b'6').size(7).block(), next()], "without data and has a size of 7"),
        unknown("type-dumpdir", b'D'),
        unknown("type-multivolume", b'M'),
        unknown("type-old-names", b'N'),
        reads("type-volume-label", &[Header::gnu(b"backup 1", b'V').block(), next()], &[next_line]),
        refused("volume-label-data", &[Header::gnu(b"backup 1", b'V').with(b"x"), next()], "volume label has data"),
        refused(
            "volume-label-extension",
            &[pax(b'x', &[("path", b"p")]), Header::gnu(b"backup 1", b'V').block(), next()],
            "an extension header before it",
        ),
        unknown("type-solaris-acl", b'A'),
        unknown("type-solaris-xattr", b'E'),
        unknown("type-star-inode", b'I'),
        unknown("type-vendor", b'Z'),
        unknown("type-reserved", b'8'),
        unknown("type-unknown", 0xff),
    ]
}

#[test]
fn a_size_on_each_type_without_data() {
    // GNU tar passes over the data of these when it lists, and over none when it extracts.
    for flag in *b"2346" {
        let header = Header::new(b"odd", flag).link(b"f").size(1024).block();
        let error = read_all(&[&header[..], &END].concat()[..], &Limits::default()).expect_err("refused");
        assert_eq!(error.code, Code::TarInvalid, "{}", flag.escape_ascii());
        let empty = Header::new(b"odd", flag).link(b"f").block();
        assert!(read_all(&[&empty[..], &END].concat()[..], &Limits::default()).is_ok());
    }
}
