//! Layers out of any bytes: each byte is a choice, and none is left when they end.

use ocifast_core::entry::Kind;

use super::items::{Item, Part, bytes, text};

/// What folders are called, and what is in them: an entry below a file is refused, and with it the whole image.
const FOLDERS: [&str; 3] = ["a", "b", "d d"];
const NAMES: [&str; 8] = ["c", "e", "f", "\u{e9}", "TRAILER!!!", ".wh.c", ".wh.a", ".wh..wh..opq"];
/// What is seldom said: most of it is refused.
const ODD: [&str; 10] = ["a", "c", "..", ".", "", ".wh.", ".wh...", "a/", "//", ".wh.b"];
const SIZES: [usize; 10] = [0, 1, 100, 3900, 4032, 4095, 4096, 4097, 9000, 20_000];
const OWNERS: [u32; 4] = [0, 65_535, 65_536, u32::MAX - 1];
const SECONDS: [i64; 8] = [0, -1, 1_700_000_000, 1 << 31, u32::MAX as i64, 1 << 32, 1 << 40, -(1 << 33)];
const ATTRIBUTES: [&str; 6] =
    ["user.a", "trusted.t", "security.capability", "system.odd", "user.", "system.posix_acl_access"];

/// Bytes that are taken one by one.
pub struct Choices<'b>(pub &'b [u8]);

impl Choices<'_> {
    /// The next choice; 0 when all were made.
    pub fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.next()) % choices.len()]
    }

    /// A path, whose last name is one of a folder where `folder` says so.
    pub fn path(&mut self, folder: bool) -> String {
        let count = usize::from(self.next()) % 4;
        let mut names: Vec<String> = (0..count).map(|_| self.name(&FOLDERS)).collect();
        names.push(if folder { self.name(&FOLDERS) } else { self.name(&NAMES) });
        names.join("/")
    }

    fn name(&mut self, names: &[&str]) -> String {
        match self.next() {
            0xff => "l".repeat(250 + usize::from(self.next() % 10)),
            0xf8.. => self.of(&ODD).to_owned(),
            other => names[usize::from(other) % names.len()].to_owned(),
        }
    }

    fn parts(&mut self) -> Vec<Part> {
        let count = self.next() % 4;
        (0..count)
            .map(|index| {
                let size = self.of(&SIZES);
                match self.next() % 4 {
                    0 => Part::Hole(size as u64),
                    1 => Part::Data(vec![0; size]),
                    2 => Part::Data(bytes(index.into(), size)),
                    _ => Part::Data(text(index.into(), size)),
                }
            })
            .collect()
    }

    /// An entry; hard links are mostly to one of the paths that were there before.
    fn item(&mut self, before: &[String]) -> Item {
        let kind = self.next() % 12;
        let path = self.path((4..6).contains(&kind));
        let item = match kind {
            0..4 => Item::sparse(path, self.parts()),
            4..6 => Item::directory(path),
            6 => Item::symlink(path, self.path(true)),
            7 => Item::symlink(path, "t".repeat(usize::from(self.next()) * 16 + 1)),
            8 | 9 => {
                let choice = usize::from(self.next());
                let target = match before.len() {
                    0 => None,
                    count => before.get(choice % count).filter(|_| choice < 0xf0).cloned(),
                };
                match target {
                    Some(target) => Item::link(path, target),
                    None => Item::link(path, self.path(false)),
                }
            }
            10 => Item::new(path, Kind::Fifo),
            _ => {
                let (major, minor) = (u32::from(self.next()) << 4, u32::from(self.next()) << 12);
                let block = self.next().is_multiple_of(2);
                let kind = if block { Kind::BlockDevice { major, minor } } else { Kind::CharDevice { major, minor } };
                Item::new(path, kind)
            }
        };
        if !self.next().is_multiple_of(4) {
            return item;
        }
        let mode = u16::from(self.next()) << 4 & 0o7777;
        let item =
            item.mode(mode).owner(self.of(&OWNERS), self.of(&OWNERS)).mtime(self.of(&SECONDS), self.next().into());
        let count = self.next() % 3;
        (0..count).fold(item, |item, index| {
            let (name, size) = (self.of(&ATTRIBUTES), usize::from(self.next()) * 20);
            item.xattr(name, bytes(index.into(), size))
        })
    }

    /// One to three layers of up to twelve entries.
    pub fn layers(&mut self) -> Vec<Vec<Item>> {
        let mut layers = vec![Vec::new()];
        let mut files: Vec<String> = Vec::new();
        while !self.is_empty() {
            match (self.next() % 8, layers.len()) {
                (0, 1 | 2) => layers.push(Vec::new()),
                _ => {
                    let item = self.item(&files);
                    if matches!(item.entry.kind, Kind::File { .. }) {
                        files.push(String::from_utf8_lossy(&item.entry.path).into_owned());
                    }
                    if let Some(layer) = layers.last_mut().filter(|layer| layer.len() < 12) {
                        layer.push(item);
                    }
                }
            }
        }
        layers
    }
}
