//! Pax extended headers and GNU long names.

use super::tar_support::{Header, long, padded, pax, record};
use super::{Row, reads, refused};

pub fn rows() -> Vec<Row> {
    let f = || Header::new(b"f", b'0').block();
    let data = |claimed: u64| [Header::new(b"f", b'0').size(claimed).block(), vec![b'x'; 512]].concat();
    let local = |records: &[(&str, &[u8])]| pax(b'x', records);
    let global = |records: &[(&str, &[u8])]| pax(b'g', records);
    let bad = |name, key: &str, value: &[u8], message| refused(name, &[local(&[(key, value)]), f()], message);
    let raw = |body: &[u8]| Header::new(b"PaxHeader", b'x').with(body);
    let plain = "f file 644 0 0 0.000000000";
    let inner = Header::new(b"hidden", b'0').block();
    let inner_text = inner.iter().map(|&byte| if byte == 0 { b'.' } else { byte }).collect::<Vec<_>>();
    let inner_line = format!("f file 644 0 0 0.000000000 \"{}\"", inner_text.escape_ascii());
    let long_name = [b'n'; 300];
    let gnu_long = |name: &[u8], size| [Header::gnu(b"././@LongLink", b'L').size(size).block(), padded(name)].concat();
    vec![
        reads("pax-path", &[local(&[("path", b"d/\xff")]), f()], &["d/\\xff file 644 0 0 0.000000000"]),
        reads(
            "pax-linkpath",
            &[local(&[("linkpath", b"to")]), Header::new(b"l", b'2').link(b"other").block()],
            &["l symlink=to 644 0 0 0.000000000"],
        ),
        reads("pax-size-larger", &[local(&[("size", b"512")]), f(), inner.clone()], &[&inner_line]),
        reads(
            "pax-size-smaller",
            &[local(&[("size", b"0")]), Header::new(b"f", b'0').size(512).block(), inner],
            &[plain, "hidden file 644 0 0 0.000000000"],
        ),
        reads(
            "pax-number-zeros",
            &[
                raw(&format!(
                    "{0:0>40} mtime={1:0>60}.5\n{2:0>30} uid={1:0>60}\n",
                    40 + 7 + 62 + 1,
                    7,
                    30 + 5 + 60 + 1
                )
                .into_bytes()),
                f(),
            ],
            &["f file 644 7 0 7.500000000"],
        ),
        bad("pax-size-negative", "size", b"-1", "not a decimal number"),
        bad("pax-size-2-63", "size", b"9223372036854775808", "not a decimal number below 2^63"),
        bad("pax-size-empty", "size", b"", "not a decimal number"),
        reads(
            "pax-ids",
            &[local(&[("gid", b"2"), ("uid", b"4294967295")]), f()],
            &["f file 644 4294967295 2 0.000000000"],
        ),
        bad("pax-id-33-bits", "uid", b"4294967296", "does not fit in 32 bits"),
        bad("pax-id-negative", "gid", b"-2", "not a decimal number"),
        reads("pax-mtime", &[local(&[("mtime", b"12.0000000019")]), f()], &["f file 644 0 0 12.000000001"]),
        reads("pax-mtime-negative", &[local(&[("mtime", b"-1.25")]), f()], &["f file 644 0 0 -2.750000000"]),
        bad("pax-mtime-garbage", "mtime", b"12e3", "is not a time"),
        reads(
            "pax-device",
            &[
                local(&[("SCHILY.devmajor", b"300"), ("SCHILY.devminor", b"70000")]),
                Header::new(b"d", b'3').put(329, b"0000001\0").put(337, b"0000001\0").block(),
            ],
            &["d char=300:70000 644 0 0 0.000000000"],
        ),
        reads("pax-unknown", &[local(&[("comment", b"hello"), ("VENDOR.key", b"")]), f()], &[plain]),
        reads("pax-names", &[local(&[("gname", b"wheel"), ("uname", b"root")]), f()], &[plain]),
        reads("pax-times", &[local(&[("atime", b"1.5"), ("ctime", b"2.5")]), f()], &[plain]),
        reads("pax-acl", &[local(&[("SCHILY.acl.access", b"user::rw-")]), f()], &[plain]),
        bad("pax-volume", "GNU.volume.filename", b"f", "one of several volumes"),
        reads(
            "pax-binary",
            &[local(&[("hdrcharset", b"BINARY"), ("path", b"\xff")]), f()],
            &["\\xff file 644 0 0 0.000000000"],
        ),
        bad("pax-charset", "hdrcharset", b"KOI8-R", "unknown character set"),
        bad("pax-path-empty", "path", b"", "empty or has a NUL"),
        bad("pax-path-nul", "path", b"a\0b", "empty or has a NUL"),
        bad("pax-linkpath-empty", "linkpath", b"", "empty or has a NUL"),
        bad("pax-key-nul", "pa\0th", b"a", "malformed pax record"),
        refused("pax-malformed", &[raw(b"7 a=b\n"), f()], "malformed pax record"),
        refused("pax-padding", &[raw(b"6 a=b\n\0\0\0"), f()], "malformed pax record"),
        refused("pax-duplicate", &[raw(&[record(b"path", b"a"), record(b"path", b"a")].concat()), f()], "stands twice"),
        refused("pax-twice", &[local(&[("path", b"a")]), local(&[("mtime", b"1")]), f()], "two pax headers"),
        reads("pax-empty", &[raw(b""), f()], &[plain]),
        reads("pax-solaris", &[pax(b'X', &[("path", b"x")]), f()], &["x file 644 0 0 0.000000000"]),
        reads(
            "xattr-schily",
            &[local(&[("SCHILY.xattr.user.a", b"\0\xff\n"), ("SCHILY.xattr.user.e", b"")]), f()],
            &["f file 644 0 0 0.000000000 user.a=\\x00\\xff\\n user.e="],
        ),
        reads(
            "xattr-libarchive",
            &[local(&[("LIBARCHIVE.xattr.user.a%3Db", b"AP8K")]), f()],
            &["f file 644 0 0 0.000000000 user.a=b=\\x00\\xff\\n"],
        ),
        reads(
            "xattr-both",
            &[local(&[("LIBARCHIVE.xattr.user.a", b"eA"), ("SCHILY.xattr.user.a", b"x")]), f()],
            &["f file 644 0 0 0.000000000 user.a=x"],
        ),
        refused(
            "xattr-conflict",
            &[local(&[("LIBARCHIVE.xattr.user.a", b"eA"), ("SCHILY.xattr.user.a", b"y")]), f()],
            "the attribute has two values",
        ),
        bad("xattr-base64", "LIBARCHIVE.xattr.user.a", b"*", "not base64"),
        bad("xattr-percent", "LIBARCHIVE.xattr.user.%zz", b"eA", "not URL-encoded"),
        bad("xattr-nameless", "SCHILY.xattr.", b"x", "name is empty"),
        reads(
            "global",
            &[
                global(&[("mtime", b"1.5"), ("uid", b"7")]),
                f(),
                local(&[("SCHILY.xattr.user.l", b"l"), ("uid", b"8")]),
                f(),
                global(&[("mtime", b"2.5")]),
                f(),
            ],
            &["f file 644 7 0 1.500000000", "f file 644 8 0 1.500000000 user.l=l", "f file 644 7 0 2.500000000"],
        ),
        reads(
            "global-deleted",
            &[global(&[("mtime", b"9"), ("uid", b"7")]), local(&[("mtime", b""), ("uid", b"")]), f(), f()],
            &[plain, "f file 644 7 0 9.000000000"],
        ),
        refused("global-path", &[global(&[("path", b"p")]), f()], "can be of one entry only"),
        refused("global-size", &[global(&[("size", b"1")]), data(1)], "can be of one entry only"),
        refused(
            "global-xattr",
            &[global(&[("SCHILY.xattr.user.g", b"g")]), f()],
            "xattr, which can be of one entry only",
        ),
        refused("global-between", &[local(&[("path", b"p")]), global(&[("uid", b"1")]), f()], "stands between"),
        reads("gnu-name", &[long(b'L', &long_name), f()], &[&format!("{} file 644 0 0 0.000000000", "n".repeat(300))]),
        reads(
            "gnu-link",
            &[long(b'L', b"name"), long(b'K', &long_name), Header::gnu(b"l", b'1').link(b"x").block()],
            &[&format!("name link={} 644 0 0 0.000000000", "n".repeat(300))],
        ),
        reads(
            "gnu-name-unended",
            &[Header::gnu(b"././@LongLink", b'L').with(b"name"), f()],
            &["name file 644 0 0 0.000000000"],
        ),
        reads(
            "gnu-name-and-pax",
            &[long(b'L', b"name"), local(&[("mtime", b"1")]), f()],
            &["name file 644 0 0 1.000000000"],
        ),
        refused("gnu-name-twice", &[long(b'L', b"a"), long(b'L', b"b"), f()], "two GNU long names"),
        refused("gnu-name-short", &[gnu_long(b"etc/passwd", 6), f()], "goes on after the size"),
        refused(
            "gnu-and-sparse-name",
            &[
                long(b'L', b"first"),
                local(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"second"),
                    ("GNU.sparse.realsize", b"9"),
                ]),
                Header::new(b"s", b'0').with(&[&b"1\n0\n1\n"[..], &[0; 506], b"x"].concat()),
            ],
            "both a GNU long name",
        ),
        refused("gnu-name-empty", &[long(b'L', b""), f()], "a GNU long name is empty"),
        refused("gnu-name-nul", &[long(b'L', b"a\0b"), f()], "goes on after a NUL"),
        refused("gnu-and-pax-path", &[long(b'L', b"a"), local(&[("path", b"a")]), f()], "both a GNU long name"),
        refused(
            "gnu-and-pax-link",
            &[local(&[("linkpath", b"a")]), long(b'K', b"a"), Header::new(b"l", b'2').block()],
            "both a GNU long name",
        ),
    ]
}
