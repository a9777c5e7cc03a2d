//! The fuzz targets over their corpora: each file as it is, and changed at random, the same way each time.
//!
//! `FUZZ_SECONDS` says for how long each target runs with other changes, `FUZZ_TARGETS` which ones, `FUZZ_SEED` which
//! changes. `cargo test --test fuzz_corpus -- --ignored begin` writes the corpora.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[path = "support/layers.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod layers;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fuzz::TARGETS;
use fuzz::items::{Item, bytes, text};
use fuzz::written::{FORMS, write};
use layers::{Archive, Kept};
use ocifast_core::digest::Digest;
use ocifast_core::read::Format;

/// How often each file is changed in a test run.
const CHANGES: usize = 60;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("the corpus of {target}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

/// A generator that gives the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Flips bits, sets edge values, cuts, doubles.
    fn change(&mut self, bytes: &[u8]) -> Vec<u8> {
        const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xff, b'0'];
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len());
            match (self.below(6), out.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << self.below(8),
                (1 | 2, Some(byte)) => *byte = EDGES[self.below(EDGES.len())],
                (3, Some(byte)) => *byte = self.below(256) as u8,
                (4, _) => out.truncate(at),
                _ => {
                    let end = (at + self.below(16)).min(out.len());
                    let part = out[at..end].to_vec();
                    out.splice(at..at, part);
                }
            }
        }
        out
    }
}

fn replay(name: &str, path: &Path, bytes: &[u8], target: fuzz::Target) {
    let run = std::panic::AssertUnwindSafe(|| target(bytes));
    if let Err(panic) = std::panic::catch_unwind(run) {
        let found =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", &Digest::of(bytes).as_str()[7..23]));
        let kept = fs::write(&found, bytes);
        eprintln!("{name}: found from {}, kept as {} ({kept:?})", path.display(), found.display());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn what_was_found_stays_mended() {
    for (name, target) in TARGETS {
        let files = files(name);
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for (path, bytes) in files {
            replay(name, &path, &bytes, target);
            let mut chance = Chance(bytes.len() as u64 * 0x9E37_79B9 + 1);
            (0..CHANGES).for_each(|_| replay(name, &path, &chance.change(&bytes), target));
        }
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
#[ignore = "takes FUZZ_SECONDS for each target: make fuzz"]
fn long() {
    let time = Duration::from_secs(number("FUZZ_SECONDS", 60));
    let chosen = std::env::var("FUZZ_TARGETS").unwrap_or_default();
    for (name, target) in
        TARGETS.into_iter().filter(|(name, _)| chosen.is_empty() || chosen.split(' ').any(|one| one == *name))
    {
        let files = files(name);
        let mut chance = Chance(number("FUZZ_SEED", 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (start, mut executions) = (Instant::now(), 0u64);
        while start.elapsed() < time {
            let (path, bytes) = &files[chance.below(files.len())];
            replay(name, path, &chance.change(bytes), target);
            executions += 1;
        }
        println!("{name:12} {executions:>10} executions");
    }
}

fn add(target: &str, bytes: &[u8]) {
    let folder = corpus(target);
    fs::create_dir_all(&folder).expect("a folder");
    let digest = Digest::of(bytes);
    fs::File::create(folder.join(&digest.as_str()[7..23])).and_then(|mut file| file.write_all(bytes)).expect("written");
}

fn sample() -> Vec<Vec<Item>> {
    vec![vec![
        Item::directory("./").mode(0o1755),
        Item::file("d/text", text(1, 5000)).mtime(7, 5),
        Item::file("small", bytes(2, 30)).xattr("user.a", "1").owner(70_000, 1),
        Item::link("link", "small"),
        Item::symlink("s", "d/text"),
    ]]
}

#[test]
#[ignore = "writes the first files of the corpora"]
fn begin() {
    for form in FORMS {
        let made = write(&sample(), form).expect("written");
        let image = fs::read(&made.path).expect("an output");
        match form.format {
            Format::Erofs => add("erofs", &image),
            Format::Squashfs => add("squashfs", &image),
            Format::Cpio => add("cpio", &image),
            Format::Tar if made.is_packed() => add("decompress", &image),
            Format::Tar => ["tar", "archives"].iter().for_each(|target| add(target, &image)),
            Format::Ext4 => {}
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (tree, small) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir_all(tree.join("d")).expect("a folder");
    fs::write(tree.join("d/file"), text(3, 3072)).expect("a file");
    std::os::unix::fs::symlink("d/file", tree.join("link")).expect("a link");
    for options in [&["-b", "1024"][..], &["-b", "1024", "-O", "^64bit,^metadata_csum"]] {
        let _ = fs::remove_file(&small);
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-t", "ext4", "-N", "16", "-m", "0", "-O", "^has_journal,^resize_inode"]).args(options);
        assert!(command.arg("-d").arg(&tree).arg(&small).arg("128k").status().expect("mke2fs").success());
        add("ext4", &fs::read(&small).expect("an image"));
    }
    for level in [0, 1, 9] {
        let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
        out.write_all(&text(4, 600)).expect("written");
        add("inflate", &out.finish().expect("finished"));
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        out.write_all(&text(4, 600)).expect("written");
        add("decompress", &out.finish().expect("finished"));
    }
    let lines =
        ["d/", "d/f 5000", "l -> d/f", "h = d/f", "c c 1 3", "p p", "s 9000 @ 100 10", "x 10 +user.a", ".wh.a 0"];
    add("table", &Kept::of(&Archive::of(&lines)).expect("kept").table_bytes());
    add("tar", &Archive::of(&lines).0);
    for seed in 0..FORMS.len() as u64 {
        add("writers", &[&[seed as u8][..], &bytes(seed + 1, 200)].concat());
        add("merge", &bytes(seed + 50, 200));
    }
}
