//! Fields of the header block.

use super::tar_support::Header;
use super::{Row, reads, refused};

pub fn rows() -> Vec<Row> {
    let new = |name: &[u8]| Header::new(name, b'0');
    let long_prefix = [b'p'; 155];
    let long_name = [b'n'; 100];
    let joined = format!("{}/{} file 644 0 0 0.000000000", "p".repeat(155), "n".repeat(100));
    let signed = new(b"caf\xc3\xa9").sum(true);
    let mut wrong = new(b"f").block();
    wrong[0] = b'g';
    vec![
        reads("v7", &[Header::v7(b"f", b'0').with(b"x")], &["f file 644 0 0 0.000000000 \"x\""]),
        reads("ustar-prefix", &[new(&long_name).put(345, &long_prefix).block()], &[&joined]),
        reads(
            "gnu-prefix",
            &[Header::gnu(b"f", b'0').put(345, b"01234567012").block()],
            &["f file 644 0 0 0.000000000"],
        ),
        reads("magic-unknown", &[new(b"f").put(257, b"ustar1").block()], &["f file 644 0 0 0.000000000"]),
        refused("magic-unknown-prefix", &[new(b"f").put(257, b"ustar1").put(345, b"p").block()], "magic"),
        reads("checksum-signed", &[signed], &["caf\\xc3\\xa9 file 644 0 0 0.000000000"]),
        refused("checksum-wrong", &[wrong], "checksum"),
        refused("checksum-empty", &[vec![b'x'; 512]], "checksum"),
        reads(
            "number-empty",
            &[new(b"f").put(100, &[0; 8]).put(108, b"        ").put(116, &[0; 8]).put(124, &[0; 24]).block()],
            &["f file 0 0 0 0.000000000"],
        ),
        reads(
            "number-spaces",
            &[new(b"f").put(100, b"   755 \0").put(136, b"          7 ").block()],
            &["f file 755 0 0 7.000000000"],
        ),
        refused("number-garbage", &[new(b"f").put(124, b"0000000000x\0").block()], "not an octal number"),
        refused("number-after-nul", &[new(b"f").put(124, b"0\x00001\0\0\0\0\0\0\0\0").block()], "not an octal number"),
        reads(
            "number-base-256",
            &[new(b"f").put(108, b"\x80\0\0\0\xff\xff\xff\xfe").put(116, b"\x80\0\0\0\x80\0\0\0").block()],
            &["f file 644 4294967294 2147483648 0.000000000"],
        ),
        reads("mtime-negative", &[new(b"f").put(136, &[0xff; 12]).block()], &["f file 644 0 0 -1.000000000"]),
        reads("mode-type-bits", &[new(b"f").put(100, b"0107755\0").block()], &["f file 7755 0 0 0.000000000"]),
        refused("size-negative", &[new(b"f").put(124, &[0xff; 12]).block()], "the size -1 is negative"),
        refused("size-2-63", &[new(b"f").put(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0").block()], "does not fit in 63 bits"),
        refused("id-negative", &[new(b"f").put(108, &[0xff; 8]).block()], "the uid -1 is negative"),
        refused(
            "id-33-bits",
            &[new(b"f").put(116, b"\x80\0\0\x01\0\0\0\0").block()],
            "the gid 4294967296 does not fit in 32 bits",
        ),
        reads("name-not-utf-8", &[new(b"\xff\xfe").block()], &["\\xff\\xfe file 644 0 0 0.000000000"]),
        reads("name-after-nul", &[new(b"f\0junk").block()], &["f file 644 0 0 0.000000000"]),
        reads("name-100", &[new(&[b'n'; 100]).block()], &[&format!("{} file 644 0 0 0.000000000", "n".repeat(100))]),
        refused("name-empty", &[new(b"").block()], "path is empty"),
        refused("name-empty-prefix", &[new(b"").put(345, b"prefix").block()], "path is empty"),
        reads("user-name", &[new(b"f").put(265, b"root").put(297, b"wheel").block()], &["f file 644 0 0 0.000000000"]),
    ]
}
