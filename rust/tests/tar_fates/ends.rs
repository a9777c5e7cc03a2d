//! Where archives end, where they break off, and the limits.

use ocifast_core::error::Code;
use ocifast_core::limits::Limits;

use super::tar_support::{END, Header, long, pax};
use super::{Fate, Row};

/// No end blocks are added here.
fn exact(name: &'static str, parts: &[&[u8]], fate: Fate) -> Row {
    Row { name, archive: parts.concat(), limits: Limits::default(), fate }
}

fn limited(name: &'static str, limits: Limits, parts: &[Vec<u8>], message: &'static str) -> Row {
    let archive = [&parts.concat()[..], &END].concat();
    Row { name, archive, limits, fate: Fate::Refused(Code::LimitExceeded, message) }
}

pub fn rows() -> Vec<Row> {
    let file = Header::new(b"f", b'0').with(&[b'x'; 3]);
    let line = || Fate::Reads("f file 644 0 0 0.000000000 \"xxx\"\n".to_owned());
    let nothing = || Fate::Reads(String::new());
    let broken = |message| Fate::Refused(Code::TarInvalid, message);
    let path = pax(b'x', &[("path", b"p")]);
    vec![
        exact("end-blocks", &[&file, &END], line()),
        exact("end-none", &[&file], line()),
        exact("end-single", &[&file, &[0; 512]], line()),
        exact("end-more", &[&file, &END, &[7; 700]], line()),
        exact("end-empty", &[&END], nothing()),
        exact("end-nothing", &[], nothing()),
        exact("zero-block-inside", &[&file, &[0; 512], &file, &END], broken("a single block of zeros")),
        exact("truncated-header", &[&file, &file[..511]], broken("the archive ends early")),
        exact("truncated-data", &[&file[..514]], broken("the archive ends early")),
        exact("truncated-padding", &[&file[..1023]], broken("the archive ends early")),
        exact("truncated-zeros", &[&file, &[0; 600]], broken("the archive ends early")),
        exact("truncated-extension", &[&path[..515]], broken("the archive ends early")),
        exact("extension-then-end", &[&path, &END], broken("before its entry")),
        exact("extension-then-nothing", &[&path], broken("before its entry")),
        exact("gnu-name-then-end", &[&long(b'L', b"n"), &END], broken("before its entry")),
        exact("gnu-link-then-end", &[&long(b'K', b"n"), &END], broken("before its entry")),
        limited(
            "limit-extension",
            Limits { extension_bytes: 1000, ..Limits::default() },
            &[Header::new(b"x", b'x').size(1001).block()],
            "an extension header of 1001 bytes is longer than 1000",
        ),
        limited(
            "limit-path",
            Limits { path_bytes: 300, ..Limits::default() },
            &[long(b'K', &[b'k'; 301])],
            "a path of 301 bytes is longer than 300",
        ),
        limited(
            "limit-pax-path",
            Limits { path_bytes: 300, ..Limits::default() },
            &[pax(b'x', &[("path", &[b'p'; 301])])],
            "a path of 301 bytes is longer than 300",
        ),
        limited(
            "limit-xattrs",
            Limits { xattr_bytes: 100, ..Limits::default() },
            &[pax(b'x', &[("SCHILY.xattr.user.a", &[b'v'; 95])])],
            "101 bytes of extended attributes are more than 100",
        ),
    ]
}
