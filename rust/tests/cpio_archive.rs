//! What stands in an archive, member by member, and what is said to be lost.

#[path = "support/trees.rs"]
mod trees;

use ocifast_core::contents::Contents;
use ocifast_core::entry::Kind;
use ocifast_core::error::{Code, Result};
use ocifast_core::output::{Loss, Source, Target, WriteRequest, cpio};
use ocifast_core::tree::Tree;
use trees::Maker;

/// One line for each member: number, mode, owner, links, time, size, device, name, data.
fn listing(archive: &[u8]) -> Vec<String> {
    assert_eq!(archive.len() % 512, 0);
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&archive[at + 6 + index * 8..][..8]).expect("digits");
            u32::from_str_radix(digits, 16).expect("hexadecimal")
        };
        let name_end = at + 110 + field(11) as usize;
        assert_eq!(archive[name_end - 1], 0);
        let name = String::from_utf8_lossy(&archive[at + 110..name_end - 1]);
        let data_start = name_end.next_multiple_of(4);
        let data_end = data_start + field(6) as usize;
        let data = String::from_utf8_lossy(&archive[data_start..data_end]);
        lines.push(format!(
            "{} {:o} {}:{} {} {} {} {}:{} {}:{} {} {name} {data}",
            field(0),
            field(1),
            field(2),
            field(3),
            field(4),
            field(5),
            field(6),
            field(7),
            field(8),
            field(9),
            field(10),
            field(12),
        ));
        if name == "TRAILER!!!" {
            assert!(archive[data_end..].iter().all(|&byte| byte == 0));
            return lines;
        }
        at = data_end.next_multiple_of(4);
    }
}

/// The archive, and what it could not hold.
fn written(tree: &Tree, contents: &dyn Contents, clamp_mtime: Option<i64>) -> Result<(Vec<u8>, Vec<Loss>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("archive");
    let request = WriteRequest::new(Source::new(tree, contents), Target::Path(&path), cpio::Options::default());
    let written = cpio::write(WriteRequest { clamp_mtime, ..request })?;
    let archive = std::fs::read(&path).expect("an archive");
    assert_eq!(written.bytes, Some(archive.len() as u64));
    Ok((archive, written.losses))
}

#[test]
fn members_carry_all_that_the_format_has() -> Result<()> {
    let mut maker = Maker::new();
    maker.with(0o1777, 1, 2, 10, 0).directory("./");
    maker.with(0o4755, 4_294_967_294, 3, 4_294_967_295, 0).file("b", b"shared").link("c/d", "b").link("e", "b");
    maker.with(0o600, 0, 0, 0, 0).file("TRAILER!!!", b"not the end").sparse("h", 8, &[(2, b"xy")]);
    maker.symlink("l", "target").entry("p", Kind::Fifo);
    maker.entry("n", Kind::CharDevice { major: 1, minor: 1 << 20 }).link("m", "n");
    maker.entry("s", Kind::BlockDevice { major: 8, minor: 0 });
    let (tree, memory) = maker.finish()?;
    let (archive, losses) = written(&tree, &memory, None)?;
    assert_eq!(losses, []);
    let expected = [
        "1 41777 1:2 1 10 0 0:0 0:0 0 . ",
        "2 100600 0:0 1 0 11 0:0 0:0 0 ./TRAILER!!! not the end",
        "3 104755 4294967294:3 3 4294967295 0 0:0 0:0 0 b ",
        "4 40755 0:0 1 0 0 0:0 0:0 0 c ",
        "3 104755 4294967294:3 3 4294967295 0 0:0 0:0 0 c/d ",
        "3 104755 4294967294:3 3 4294967295 6 0:0 0:0 0 e shared",
        "5 100600 0:0 1 0 8 0:0 0:0 0 h \0\0xy\0\0\0\0",
        "6 120600 0:0 1 0 6 0:0 0:0 0 l target",
        "7 20600 0:0 2 0 0 0:0 1:1048576 0 m ",
        "7 20600 0:0 2 0 0 0:0 1:1048576 0 n ",
        "8 10600 0:0 1 0 0 0:0 0:0 0 p ",
        "9 60600 0:0 1 0 0 0:0 8:0 0 s ",
        "0 0 0:0 1 0 0 0:0 0:0 0 TRAILER!!! ",
    ];
    assert_eq!(listing(&archive), expected);
    Ok(())
}

#[test]
fn what_is_lost_is_said_once_for_each_file() -> Result<()> {
    let mut maker = Maker::new();
    maker.with(0o644, 0, 0, -1, 0).file("early", b"").with(0o644, 0, 0, 1 << 32, 0).file("late", b"");
    maker.with(0o644, 0, 0, 5, 1).file("fraction", b"").link("fraction-too", "fraction");
    maker.with(0o644, 0, 0, 5, 0).xattrs(&[("user.a", b"1"), ("user.\u{e9}", b"2")]).file("xattrs", b"");
    maker.link("xattrs-too", "xattrs").xattrs(&[]).symlink("sym", "t").link("sym-too", "sym");
    let folder = "d/".repeat(2046);
    maker.file(format!("{folder}abc"), b"").file(format!("{folder}abcd"), b"");
    let (tree, memory) = maker.finish()?;
    let (archive, losses) = written(&tree, &memory, None)?;
    let said: Vec<String> = losses
        .iter()
        .flat_map(|it| it.paths.iter().map(move |path| format!("{} {}", it.kind, path.escape_ascii())))
        .collect();
    let expected = [
        &format!("path {folder}abcd"),
        "mtime early",
        "mtime fraction",
        "mtime late",
        "hardlink sym-too",
        "xattr xattrs",
        "xattr xattrs",
    ];
    assert_eq!(said, expected);
    let times: Vec<String> = listing(&archive)
        .iter()
        .filter(|line| ["early", "late", "fraction"].iter().any(|name| line.contains(&format!(" {name} "))))
        .map(|line| line.split(' ').nth(4).expect("a time").to_owned())
        .collect();
    assert_eq!(times, ["0", "5", "4294967295"]);
    let (_, losses) = written(&tree, &memory, Some(5))?;
    assert!(losses.iter().filter(|it| it.kind == "mtime").all(|it| it.paths == [b"early"]));
    Ok(())
}

#[test]
fn data_stand_at_the_last_name_that_linux_unpacks() -> Result<()> {
    let mut maker = Maker::new();
    let folder = "d/".repeat(2046);
    let [lon1, lon2, lon3] = ["lon1", "lon2", "lon3"].map(|name| format!("{folder}{name}"));
    maker.file("a", b"one").link("b", "a").link(&lon3, "a");
    maker.file(&lon1, b"two").link(&lon2, &lon1);
    let (tree, memory) = maker.finish()?;
    let (archive, _) = written(&tree, &memory, None)?;
    let lines = listing(&archive);
    let files = lines.iter().filter(|line| line.split(' ').nth(1) == Some("100644"));
    let data: Vec<&str> = files.map(|line| line.rsplit(' ').next().expect("data")).collect();
    // The names of the second file are all too long: GNU cpio unpacks them.
    assert_eq!(data, ["", "one", "", "two", ""]);
    Ok(())
}

#[test]
fn four_gibibytes_are_refused_before_anything_is_written() -> Result<()> {
    let mut maker = Maker::new();
    maker.file("a", b"data").sparse("z", 1 << 32, &[]);
    let (tree, memory) = maker.finish()?;
    let out = tempfile::tempfile().expect("a file");
    let target = Target::Open(out.try_clone().expect("a file"));
    let request = WriteRequest::new(Source::new(&tree, &memory), target, cpio::Options::default());
    let error = cpio::write(request).expect_err("refused");
    assert_eq!((error.code, out.metadata().expect("a size").len()), (Code::OutputUnsupported, 0));
    assert_eq!(error.context.path.as_deref(), Some(&b"z"[..]));
    Ok(())
}
