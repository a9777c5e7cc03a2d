//! The same archives read by us, by GNU tar and by Python's tarfile; and ours read by bsdtar as well.
//!
//! GNU tar 1.34, Python 3.10 and libarchive 3.6 or newer have to be there: `tar`, `python3`, `bsdtar`.

#[path = "../tar_support/mod.rs"]
mod tar_support;

mod others;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ocifast_core::digest::Digest;
use ocifast_core::entry::{Kind, Metadata, Mtime};
use ocifast_core::limits::Limits;
use ocifast_core::tar::{Member, MemberKind, Writer};
use others::{bsdtar, gnu, octal, output, python};
use tar_support::{END, Header, pax, read_all};

/// One entry, in words that all readers can say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    path: Vec<u8>,
    kind: String,
    mode: u32,
    owner: (u64, u64),
    mtime: (i64, u32),
    size: u64,
    link: Vec<u8>,
    device: (u32, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Digest of the content of a regular file.
    content: String,
}

/// What our reader says, and the contents of all files one after another.
fn ours(archive: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let mut contents = Vec::new();
    let entries = read_all(archive, &Limits::default()).expect("readable");
    let seen = entries.into_iter().map(|(entry, data)| {
        let mut seen = Seen {
            path: entry.path.strip_suffix(b"/").unwrap_or(&entry.path).to_vec(),
            mode: entry.metadata.mode.into(),
            owner: (entry.metadata.uid.into(), entry.metadata.gid.into()),
            mtime: (entry.metadata.mtime.seconds, entry.metadata.mtime.nanoseconds),
            xattrs: entry.metadata.xattrs.as_deref().cloned().unwrap_or_default(),
            ..Seen::default()
        };
        seen.kind = match entry.kind {
            Kind::File { size } => {
                seen.size = size;
                seen.content = Digest::of(&data).to_string();
                contents.extend_from_slice(&data);
                "file"
            }
            Kind::Directory => "directory",
            Kind::Symlink { target } => {
                seen.link = target;
                "symlink"
            }
            Kind::HardLink { target } => {
                seen.link = target;
                "link"
            }
            Kind::CharDevice { major, minor } => {
                seen.device = (major, minor);
                "char"
            }
            Kind::BlockDevice { major, minor } => {
                seen.device = (major, minor);
                "block"
            }
            Kind::Fifo => "fifo",
        }
        .to_owned();
        seen
    });
    (seen.collect(), contents)
}

/// Compares entry by entry, so that a failure is short.
fn same(who: &str, theirs: &[Seen], ours: &[Seen]) {
    for (theirs, ours) in theirs.iter().zip(ours) {
        assert_eq!(theirs, ours, "{who} (left) and we (right) differ on \"{}\"", ours.path.escape_ascii());
    }
    assert_eq!(theirs.len(), ours.len(), "{who} (left) and we (right) see different numbers of entries");
}

/// Reads one archive with all readers.
fn compare(archive: &Path) -> Vec<Seen> {
    let (seen, contents) = ours(&fs::read(archive).expect("there"));
    assert!(!seen.is_empty());
    same("Python", &python(archive), &seen);
    // GNU tar's listing has neither attributes nor contents for each file.
    let plain = |seen: &Seen| Seen { xattrs: BTreeMap::new(), content: String::new(), ..seen.clone() };
    same("GNU tar", &gnu(archive), &seen.iter().map(plain).collect::<Vec<_>>());
    let theirs = output(Command::new("tar").args(["--warning=no-unknown-keyword", "-xOf"]).arg(archive));
    assert!(theirs == contents, "GNU tar and we read different contents");
    seen
}

/// Names whose lengths are the borders of the header's fields, files with holes, and one of each type.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("directory")).expect("made");
    fs::write(root.join("file"), b"content").expect("made");
    fs::write(root.join("empty"), b"").expect("made");
    fs::hard_link(root.join("file"), root.join("zz-hard")).expect("made");
    symlink("../some/target", root.join("symlink")).expect("made");
    symlink(std::ffi::OsStr::from_bytes(&[b't'; 300]), root.join("long-symlink")).expect("made");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"caf\xe9\xff")), b"latin").expect("made");
    output(Command::new("mkfifo").arg(root.join("fifo")));
    for length in [98, 99, 100, 101, 155, 156, 255] {
        fs::write(root.join("n".repeat(length)), length.to_string()).expect("made");
    }
    // A prefix of 155 bytes (with `./`), and names that stand behind it or do not.
    let deep = root.join("d".repeat(60)).join("e".repeat(92));
    fs::create_dir_all(&deep).expect("made");
    for length in [99, 100, 101, 102, 200] {
        fs::write(deep.join("f".repeat(length)), length.to_string()).expect("made");
    }
    let times = ["@0", "@1", "@-1", "@-1.5", "@-2.25", "@1.000000001", "@2147483648.5", "@8589934591", "@8589934592"];
    for (index, time) in times.into_iter().enumerate() {
        let path = root.join(format!("time-{index}"));
        fs::write(&path, b"").expect("made");
        output(Command::new("touch").args(["-d", time]).arg(path));
    }
}

fn make_sparse(root: &Path) {
    use std::os::unix::fs::FileExt;
    let sparse = |name: &str, size: u64, pieces: &[(u64, &[u8])]| {
        let file = File::create(root.join(name)).expect("made");
        file.set_len(size).expect("made");
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).expect("written");
        }
    };
    sparse("hole", 1 << 20, &[]);
    sparse("middle", 1 << 20, &[(500_000, b"data")]);
    sparse("ends", (1 << 20) + 17, &[(0, b"first"), (1 << 20, b"last bytes of all")]);
    let many: Vec<(u64, &[u8])> = (0..60).map(|index| (index * 131_072, &b"piece"[..])).collect();
    sparse("many", 9_000_000, &many);
    let name = format!("long-{}", "s".repeat(150));
    sparse(&name, 1 << 20, &[(500_000, b"data")]);
}

fn create(archive: &Path, root: &Path, options: &[&str]) {
    // Names are sorted so that a hard link comes after its file.
    output(Command::new("tar").arg("-cf").arg(archive).args(["--sort=name", "-C"]).arg(root).args(options));
}

#[test]
fn formats_of_gnu_tar() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let root = folder.path().join("root");
    make_tree(&root);
    for format in ["gnu", "oldgnu", "posix"] {
        let archive = folder.path().join(format!("{format}.tar"));
        create(&archive, &root, &[&format!("--format={format}"), "--owner=:4000000000", "--group=:2097152", "."]);
        let seen = compare(&archive);
        assert_eq!(seen.len(), 32, "{format}");
        assert!(seen.iter().any(|seen| seen.link.len() == 300 && seen.owner == (4_000_000_000, 2_097_152)));
        let expected = if format == "posix" { (-2, 500_000_000) } else { (-2, 0) };
        let time = seen.iter().find(|seen| seen.path == b"./time-3").expect("there");
        assert_eq!(time.mtime, expected, "{format}");
    }
    // What the old formats cannot hold stays out.
    let (name, deep) = (format!("--exclude=./{}*", "n".repeat(99)), format!("--exclude={}*", "f".repeat(101)));
    let ustar = ["--exclude=./time-[2348]", "--exclude=./long-symlink", &name, &deep];
    let v7 = [
        "--exclude=./time-[2348]",
        "--exclude=./long-symlink",
        "--exclude=./nnn*",
        "--exclude=./ddd*",
        "--exclude=fifo",
    ];
    for (format, options, entries) in [("ustar", &ustar[..], 18), ("v7", &v7, 12)] {
        let archive = folder.path().join(format!("{format}.tar"));
        create(&archive, &root, &[&[&*format!("--format={format}")][..], options, &["."]].concat());
        assert_eq!(compare(&archive).len(), entries, "{format}");
    }
}

#[test]
fn sparse_files_of_gnu_tar() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("made");
    make_sparse(&root);
    for (name, options) in [
        ("old", &["--format=gnu", "--sparse"][..]),
        ("0.0", &["--format=posix", "--sparse", "--sparse-version=0.0"]),
        ("0.1", &["--format=posix", "--sparse", "--sparse-version=0.1"]),
        ("1.0", &["--format=posix", "--sparse", "--sparse-version=1.0"]),
        ("seek", &["--format=gnu", "--sparse", "--hole-detection=seek"]),
        ("raw", &["--format=gnu", "--sparse", "--hole-detection=raw"]),
    ] {
        let archive = folder.path().join(format!("{name}.tar"));
        create(&archive, &root, &[options, &["."]].concat());
        let size = fs::metadata(&archive).expect("there").len();
        assert!(size < 1 << 20, "{name}: the archive of {size} bytes is not sparse");
        assert_eq!(compare(&archive).len(), 6, "{name}");
    }
}

#[test]
fn attributes_of_gnu_tar_and_bsdtar() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("made");
    let path = root.join("file");
    fs::write(&path, b"content").expect("made");
    let expected = BTreeMap::from([
        (b"user.binary".to_vec(), b"\0\xff\n=".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
        (b"user.text".to_vec(), b"text".to_vec()),
    ]);
    for (name, value) in &expected {
        let name = std::str::from_utf8(name).expect("ASCII");
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::CREATE).expect("a filesystem with attributes");
    }
    let archive = folder.path().join("gnu.tar");
    create(&archive, &root, &["--format=posix", "--xattrs", "file"]);
    assert_eq!(compare(&archive)[0].xattrs, expected);
    let archive = folder.path().join("bsd.tar");
    output(Command::new("bsdtar").arg("--format=pax").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("file"));
    let bytes = fs::read(&archive).expect("there");
    assert!(bytes.windows(17).any(|window| window == b"LIBARCHIVE.xattr."), "bsdtar writes its own encoding too");
    assert_eq!(ours(&bytes).0[0].xattrs, expected);
}

#[test]
fn bsdtar_writes_what_we_read() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let root = folder.path().join("root");
    make_tree(&root);
    for format in ["pax", "gnutar", "ustar"] {
        let archive = folder.path().join(format!("{format}.tar"));
        let mut bsdtar = Command::new("bsdtar");
        bsdtar.arg(format!("--format={format}")).arg("-cf").arg(&archive).arg("-C").arg(&root);
        // libarchive wants names in the character set of the locale.
        bsdtar.args(["--exclude=caf*", "--exclude=time-[2348]"]);
        if format == "ustar" {
            bsdtar.args(["--exclude=long-symlink", "--exclude=nnn*", "--exclude=ddd*"]);
        }
        output(bsdtar.arg("."));
        compare(&archive);
    }
}

#[test]
fn sizes_that_lie_are_read_alike() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let hidden = Header::new(b"hidden", b'0').block();
    let next = Header::new(b"next", b'0').with(b"next");
    let file = |size: u64| Header::new(b"file", b'0').size(size).block();
    let link = Header::new(b"link", b'1').link(b"file").size(512).block();
    type Parts<'a> = &'a [&'a [u8]];
    let table: [(&str, Parts<'_>, Parts<'_>); 4] = [
        ("larger", &[&pax(b'x', &[("size", b"512")]), &file(0), &hidden, &next], &[b"file", b"next"]),
        ("smaller", &[&pax(b'x', &[("size", b"0")]), &file(512), &hidden, &next], &[b"file", b"hidden", b"next"]),
        ("link", &[&file(0), &link, &hidden, &next], &[b"file", b"link", b"hidden", b"next"]),
        ("symlink", &[&Header::new(b"l", b'2').link(b"t").block(), &next], &[b"l", b"next"]),
    ];
    for (name, parts, expected) in table {
        let archive = folder.path().join(name);
        fs::write(&archive, [&parts.concat()[..], &END].concat()).expect("written");
        let seen = compare(&archive);
        assert_eq!(seen.iter().map(|seen| &seen.path[..]).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn everybody_reads_what_we_write() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("made");
    let xattrs = Arc::new(BTreeMap::from([
        (b"security.capability".to_vec(), b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        (b"user.text".to_vec(), b"text".to_vec()),
    ]));
    let metadata = |mode, id, seconds, nanoseconds| Metadata {
        mode,
        uid: id,
        gid: id / 2,
        mtime: Mtime { seconds, nanoseconds },
        xattrs: None,
    };
    let plain = metadata(0o644, 0, 0, 0);
    let odd = Metadata { xattrs: Some(xattrs), ..metadata(0o6755, 4_000_000_000, 1_700_000_000, 123_456_789) };
    let early = metadata(0o1777, 2_097_152, -2, 250_000_000);
    let late = metadata(0o000, 2_097_151, 8_589_934_592, 0);
    let long = [b'l'; 300];
    let prefixed = [&[b'p'; 120][..], b"/", &[b'n'; 80]].concat();
    let binary = [&[0xff; 3][..], &[b'b'; 200]].concat();
    let data = b"some content of an odd length".repeat(40);
    let file = MemberKind::File { size: data.len() as u64 };
    let members: [(&[u8], &Metadata, MemberKind<'_>); 16] = [
        (b"", &early, MemberKind::Directory),
        (b"directory", &early, MemberKind::Directory),
        (b"directory/file", &odd, file),
        (b"directory/again", &odd, MemberKind::HardLink(b"directory/file")),
        (b"empty", &late, MemberKind::File { size: 0 }),
        (b"symlink", &plain, MemberKind::Symlink(b"../\xc3\xa9")),
        (b"symlink-100", &plain, MemberKind::Symlink(&long[..100])),
        (b"symlink-101", &plain, MemberKind::Symlink(&long[..101])),
        (&long[..100], &plain, file),
        (&long[..101], &plain, file),
        (&long, &plain, MemberKind::Directory),
        (&prefixed, &plain, file),
        (&binary, &plain, file),
        (b"char", &plain, MemberKind::CharDevice { major: 4095, minor: 1_048_575 }),
        (b"block", &plain, MemberKind::BlockDevice { major: 8, minor: 1 }),
        (b"fifo", &odd, MemberKind::Fifo),
    ];
    let mut writer = Writer::new(Vec::new());
    for (path, metadata, kind) in members {
        writer.append(&Member { path, metadata, kind }).expect("writable");
        if let MemberKind::File { size: 1.. } = kind {
            writer.write_data(&data).expect("writable");
        }
    }
    let bytes = writer.finish().expect("complete");
    let archive = folder.path().join("ours.tar");
    fs::write(&archive, bytes).expect("written");
    let seen = compare(&archive);
    assert_eq!(seen.len(), members.len());
    // An mtree tells no attributes, and a hard link is a file without content. libarchive 3.6 takes -1.75 for a quarter of a
    // second before 0.
    let told = |seen: &Seen| {
        let mtime = if seen.mtime == (-2, 250_000_000) { (-1, 750_000_000) } else { seen.mtime };
        let told = Seen { xattrs: BTreeMap::new(), mtime, ..seen.clone() };
        if seen.kind == "link" { Seen { kind: "file".to_owned(), link: Vec::new(), ..told } } else { told }
    };
    let mut expected: Vec<Seen> = seen.iter().map(told).collect();
    let mut theirs = bsdtar(&archive);
    for list in [&mut expected, &mut theirs] {
        list.sort_by(|one, other| one.path.cmp(&other.path));
    }
    same("bsdtar", &theirs, &expected);
    assert_eq!(octal(b"a\\377\\\\b"), b"a\xff\\b");
}
