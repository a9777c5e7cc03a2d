//! Every image is one that `e2fsck` finds nothing wrong with; sizes, journals, losses and refusals are what was asked.

#[path = "support/trees.rs"]
mod trees;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use ocifast_core::contents::Contents;
use ocifast_core::entry::Kind;
use ocifast_core::error::{Code, Error, Result};
use ocifast_core::output::ext4::{self, Size, write};
use ocifast_core::output::{Loss, Source, Target, WriteRequest, Written};
use ocifast_core::tree::Tree;
use trees::Maker;

const UUID: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";

/// What is asked for.
#[derive(Clone)]
struct Options {
    uuid: [u8; 16],
    size: Size,
    journal: bool,
    clamp_mtime: Option<i64>,
}

impl Options {
    fn write(&self, tree: &Tree, contents: &dyn Contents, file: &File) -> Result<Written> {
        let target = Target::Open(file.try_clone().expect("a file"));
        let options = ext4::Options { size: self.size, journal: self.journal };
        let request = WriteRequest::new(Source::new(tree, contents), target, options);
        let (uuid, created, clamp_mtime) = (self.uuid, 1_700_000_000, self.clamp_mtime);
        write(WriteRequest { uuid, created, clamp_mtime, ..request })
    }
}

fn options(size: Size) -> Options {
    Options { uuid: UUID, size, journal: false, clamp_mtime: None }
}

fn tool(name: &str, arguments: &[&str], image: &Path) -> (bool, String) {
    let output = Command::new(name).args(arguments).arg(image).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is not installed: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

struct Made {
    bytes: u64,
    losses: Vec<Loss>,
    image: tempfile::NamedTempFile,
}

fn make(maker: Maker, options: &Options) -> Result<Made> {
    let (tree, memory) = maker.finish()?;
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    let Written { bytes, losses, .. } = options.write(&tree, &memory, image.as_file())?;
    let bytes = bytes.expect("a file");
    assert_eq!(image.as_file().metadata().expect("a size").len(), bytes);
    let (clean, said) = tool("e2fsck", &["-fn"], image.path());
    assert!(clean, "{said}");
    Ok(Made { bytes, losses, image })
}

fn refused(maker: Maker, options: &Options) -> (Error, u64) {
    let (tree, memory) = maker.finish().expect("a tree");
    let file: File = tempfile::tempfile().expect("a temporary file");
    let error = options.write(&tree, &memory, &file).expect_err("refused");
    (error, file.metadata().expect("a size").len())
}

fn rich() -> Maker {
    let mut maker = Maker::new();
    let big: Vec<u8> = (0..3_000_001u32).map(|index| (index % 251) as u8).collect();
    maker.with(0o1777, 7, 8, 1_600_000_000, 123_456_789).directory("./");
    maker.with(0o755, 70_000, 4_294_967_294, -5, 1).directory("etc");
    maker.with(0o4755, 0, 0, 1, 2).file("etc/passwd", b"root").file("etc/empty", b"").file("big", &big);
    maker.link("etc/passwd-", "etc/passwd").link("hard", "etc/passwd");
    maker.symlink("fast", "x".repeat(59)).symlink("slow", "y".repeat(60)).symlink("slowest", "z".repeat(4095));
    maker.sparse("holes", 5 << 30, &[(0, b"a"), (1 << 20, b"bc"), ((5 << 30) - 1, b"z")]);
    maker.entry("null", Kind::CharDevice { major: 1, minor: 3 });
    maker.entry("disk", Kind::BlockDevice { major: 4095, minor: 1_048_575 });
    maker.entry("pipe", Kind::Fifo);
    maker.xattrs(&[("user.small", b"1"), ("security.capability", &[1; 20]), ("user.empty", b"")]).file("inside", b"x");
    maker.xattrs(&[("user.a", &[7; 3000]), ("user.b", b"2"), ("trusted.other", b"y")]).file("block", b"x");
    maker.xattrs(&[("user.huge", &[9; 65_536]), ("user.more", &[8; 4000])]).directory("outside");
    maker.xattrs(&[("user.huge", &[3; 10_000])]).directory("./");
    maker
}

#[test]
fn everything_at_once() -> Result<()> {
    for journal in [false, true] {
        for size in [Size::Free(0), Size::Free(100 << 20), Size::Total(300_000_001), Size::Total(3 << 30)] {
            let made = make(rich(), &Options { journal, ..options(size) })?;
            assert_eq!(made.losses, []);
        }
    }
    Ok(())
}

#[test]
fn an_empty_tree_is_an_image() -> Result<()> {
    let made = make(Maker::new(), &options(Size::Free(0)))?;
    assert!(made.bytes <= 1 << 20, "{} bytes", made.bytes);
    make(Maker::new(), &Options { journal: true, ..options(Size::Free(0)) })?;
    Ok(())
}

#[test]
fn there_is_as_much_room_as_asked_for_and_little_more() -> Result<()> {
    for free in [0, 1, 1 << 20, 200 << 20, 5 << 30] {
        let made = make(rich(), &options(Size::Free(free)))?;
        let (_, said) = tool("dumpe2fs", &["-h"], made.image.path());
        let line = said.lines().find_map(|line| line.strip_prefix("Free blocks:")).expect("a line");
        let blocks: u64 = line.trim().parse().expect("a number");
        // Linux keeps a fiftieth of the image back, at most 16 MiB.
        let kept_back = if free == 0 { 0 } else { (made.bytes / 50).min(16 << 20) };
        assert!(blocks * 4096 >= free, "{free}: {blocks} blocks are free");
        assert!(blocks * 4096 <= free + kept_back + (1 << 20), "{free}: {blocks} blocks are free");
    }
    Ok(())
}

#[test]
fn big_directories_are_indexed() -> Result<()> {
    let mut maker = Maker::new();
    for index in 0..30_000 {
        // Names of 255 bytes, so that the index has two levels; half of them not ASCII, whose hash depends on the sign.
        let filler = if index % 2 == 0 { "n" } else { "\u{e9}" };
        let name = format!("{index:05}{}", filler.repeat(250 / filler.len()));
        maker.file(format!("big/{name}"), b"");
    }
    for index in 0..500 {
        maker.file(format!("middle/{index}"), b"");
    }
    let made = make(maker, &options(Size::Free(0)))?;
    let (_, said) = tool("debugfs", &["-R", "htree_dump /big"], made.image.path());
    assert!(said.contains("Indirect levels: 1"), "{}", &said[..said.len().min(500)]);
    let (_, said) = tool("debugfs", &["-R", "htree_dump /middle"], made.image.path());
    assert!(said.contains("Indirect levels: 0"), "{}", &said[..said.len().min(500)]);
    Ok(())
}

#[test]
fn many_subdirectories_are_not_counted() -> Result<()> {
    let mut maker = Maker::new();
    for index in 0..65_100 {
        maker.directory(format!("d/{index}"));
    }
    make(maker, &options(Size::Free(0)))?;
    Ok(())
}

#[test]
fn many_extents_have_a_tree() -> Result<()> {
    let mut maker = Maker::new();
    for count in [4u64, 5, 341, 5000] {
        let runs: Vec<(u64, &[u8])> = (0..count).map(|index| (index * 8192, &b"data"[..])).collect();
        maker.sparse(format!("{count}"), count * 8192, &runs);
    }
    make(maker, &options(Size::Free(0)))?;
    Ok(())
}

#[test]
fn equal_attributes_share_a_block() -> Result<()> {
    let mut maker = Maker::new();
    maker.xattrs(&[("user.long", &[5; 1000])]);
    for index in 0..2500 {
        maker.file(format!("{index}"), b"");
    }
    let made = make(maker, &options(Size::Free(0)))?;
    assert!(made.bytes < 2 << 20, "{} bytes", made.bytes);
    Ok(())
}

#[test]
fn two_runs_give_the_same_bytes() -> Result<()> {
    let wanted = Options { journal: true, ..options(Size::Free(10 << 20)) };
    let bytes = |made: Made| std::fs::read(made.image.path()).expect("the image");
    assert!(bytes(make(rich(), &wanted)?) == bytes(make(rich(), &wanted)?));
    let other = Options { uuid: [1; 16], ..wanted.clone() };
    assert!(bytes(make(rich(), &wanted)?) != bytes(make(rich(), &other)?));
    Ok(())
}

#[test]
fn what_is_lost_is_said() -> Result<()> {
    let mut maker = Maker::new();
    let many: Vec<String> = (0..30).map(|index| format!("user.{index:0250}")).collect();
    let names: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b"v"[..])).collect();
    maker.with(0o644, 0, 0, 1 << 40, 5).file("late", b"").with(0o644, 0, 0, -(1 << 40), 0).file("early", b"");
    maker.with(0o644, 0, 0, 0, 0).xattrs(&names).file("names", b"");
    maker.xattrs(&[("other.class", b""), ("user.", b""), ("user.big", &[0; 65_537])]).file("odd", b"");
    maker.xattrs(&[("system.posix_acl_access", b"nonsense"), ("system.other", b"")]).file("system", b"");
    let made = make(maker, &options(Size::Free(0)))?;
    let said: Vec<String> = made
        .losses
        .iter()
        .flat_map(|loss| loss.paths.iter().map(|path| format!("{} {}", loss.kind, String::from_utf8_lossy(path))))
        .collect();
    let dropped = said.iter().filter(|line| *line == "xattr names").count();
    assert!((15..20).contains(&dropped), "{said:?}");
    let rest: Vec<&str> = said.iter().map(String::as_str).filter(|line| *line != "xattr names").collect();
    let system = ["xattr system"; 2];
    assert_eq!(rest, [&["mtime early", "mtime late"][..], &["xattr odd"; 3], &system].concat());
    Ok(())
}

#[test]
fn what_cannot_be_held_is_refused_before_anything_is_written() {
    type Fill = fn(&mut Maker);
    let table: [(Fill, &str); 3] = [
        (
            |it| {
                it.sparse("x", (1 << 44) + 1, &[]);
            },
            "a file of",
        ),
        (
            |it| {
                it.entry("x", Kind::CharDevice { major: 4096, minor: 0 });
            },
            "4096:0",
        ),
        (
            |it| {
                it.entry("x", Kind::BlockDevice { major: 0, minor: 1 << 20 });
            },
            "0:1048576",
        ),
    ];
    for (fill, expected) in table {
        let mut maker = Maker::new();
        fill(&mut maker);
        let (error, size) = refused(maker, &options(Size::Free(0)));
        assert_eq!((error.code, size), (Code::OutputUnsupported, 0));
        assert!(error.message.contains(expected), "{error}");
        assert_eq!(error.context.path.as_deref(), Some(&b"x"[..]));
    }
}

#[test]
fn a_size_of_less_than_a_block_is_too_small() -> Result<()> {
    for bytes in [0, 1, 4095, 4096] {
        let (error, size) = refused(Maker::new(), &options(Size::Total(bytes)));
        assert_eq!((error.code, size), (Code::OutputUnsupported, 0));
        let least = error.message.split(' ').find_map(|word| word.parse::<u64>().ok()).expect("a number");
        let message = format!("the tree needs an ext4 image of at least {least} bytes, not {bytes}");
        assert_eq!(error.message, message);
        make(Maker::new(), &options(Size::Total(least)))?;
    }
    Ok(())
}

#[test]
fn a_size_too_small_names_the_least_that_is_enough() -> Result<()> {
    let (error, size) = refused(rich(), &options(Size::Total(2 << 20)));
    assert_eq!((error.code, size), (Code::OutputUnsupported, 0));
    let least = error.message.split(' ').find_map(|word| word.parse::<u64>().ok()).expect("a number");
    make(rich(), &options(Size::Total(least)))?;
    refused(rich(), &options(Size::Total(least - 65_536)));
    Ok(())
}
