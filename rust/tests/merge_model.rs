//! The merge against a naive model over random layers.
//!
//! The model keeps whole paths in one map and looks at every one of them for each question. It knows nothing of inodes'
//! children, of links counted, of directories moved: what it shares with the merge is the wording of the rules alone.

use std::collections::BTreeMap;

use ocifast_core::batch::{Batch, StoredEntry};
use ocifast_core::contents::Content;
use ocifast_core::entry::{Entry, Kind, Metadata};
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::tree::{InodeKind, Tree};
use proptest::prelude::*;

type Path = Vec<&'static str>;

#[derive(Clone, Debug)]
enum What {
    File,
    Directory,
    Symlink(&'static str),
    HardLink(Path),
    Fifo,
    Whiteout,
    Opaque,
}

#[derive(Clone, Debug)]
struct Line {
    path: Path,
    what: What,
}

/// What the model keeps at a path: the serial number of the entry that made it, and what it is.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    File(usize),
    Directory(Option<usize>),
    Symlink(usize, &'static str),
    Fifo(usize),
    Waiting(usize, Path),
}

#[derive(Clone, Default)]
struct Model {
    /// Everything but the root.
    nodes: BTreeMap<Path, Node>,
    root: Option<usize>,
}

struct Refused;

impl Model {
    fn is_directory(&self, path: &Path) -> bool {
        path.is_empty() || matches!(self.nodes.get(path), Some(Node::Directory(_)))
    }

    /// The real path of a path, links followed; `None` when something is missing, or in the way, before its end.
    fn real(&self, path: &Path, follow_last: bool) -> Result<Option<Path>, Refused> {
        let mut real: Path = Vec::new();
        let mut rest: Path = path.iter().rev().copied().collect();
        let mut budget = 40;
        while let Some(name) = rest.pop() {
            if !self.is_directory(&real) {
                return Ok(None);
            }
            if name == ".." {
                real.pop();
                continue;
            }
            real.push(name);
            if let Some(Node::Symlink(_, target)) = self.nodes.get(&real)
                && (!rest.is_empty() || follow_last)
            {
                budget -= 1;
                if budget < 0 {
                    return Err(Refused);
                }
                real.pop();
                if target.starts_with('/') {
                    real.clear();
                }
                rest.extend(target.split('/').rev().filter(|part| !part.is_empty() && *part != "."));
            }
        }
        Ok(Some(real))
    }

    /// What a path leads to, a link at its end not followed; the root as a directory.
    fn get(&self, path: &Path) -> Result<Option<Node>, Refused> {
        Ok(match self.real(path, false)? {
            Some(real) if real.is_empty() => Some(Node::Directory(self.root)),
            Some(real) => self.nodes.get(&real).cloned(),
            None => None,
        })
    }

    /// Whether the first link on a path has made way for something of this layer.
    fn led_astray(&self, directory: &Path, lines: &[Line]) -> bool {
        let prefixes = (1..=directory.len()).map(|length| directory[..length].to_vec());
        let link = prefixes.into_iter().find(|prefix| !self.is_directory(prefix));
        let Some(link) = link.filter(|link| matches!(self.nodes.get(link), Some(Node::Symlink(..)))) else {
            return false;
        };
        lines.iter().any(|line| match line.what {
            What::Directory => line.path == link,
            What::Whiteout => link.starts_with(&line.path),
            What::Opaque => link.starts_with(&line.path) && line.path != link,
            _ => false,
        })
    }

    fn remove(&mut self, path: &Path) {
        self.nodes.retain(|known, _| !known.starts_with(path));
    }

    /// The directory that a path goes to, made with its parents.
    fn parent(&mut self, path: &Path) -> Result<Path, Refused> {
        let mut real = Vec::new();
        let mut budget = 0;
        // One component at a time, because making one may be what `..` of a later one needs.
        let mut rest: Path = path[..path.len() - 1].iter().rev().copied().collect();
        while let Some(name) = rest.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            real.push(name);
            match self.nodes.get(&real) {
                None => {
                    self.nodes.insert(real.clone(), Node::Directory(None));
                }
                Some(Node::Directory(_)) => {}
                Some(Node::Symlink(_, target)) => {
                    budget += 1;
                    if budget > 40 {
                        return Err(Refused);
                    }
                    real.pop();
                    if target.starts_with('/') {
                        real.clear();
                    }
                    rest.extend(target.split('/').rev().filter(|part| !part.is_empty() && *part != "."));
                }
                Some(_) => return Err(Refused),
            }
        }
        Ok(real)
    }

    fn layer(&mut self, lines: &[Line], first: usize) -> Result<(), Refused> {
        let below = self.clone();
        for line in lines {
            let (directory, name) = match line.what {
                What::Whiteout => (line.path[..line.path.len() - 1].to_vec(), line.path.last()),
                What::Opaque => (line.path.clone(), None),
                _ => continue,
            };
            if below.led_astray(&directory, lines) {
                continue;
            }
            let real = below.real(&directory, true)?;
            if let Some(mut real) = real.filter(|real| below.is_directory(real)) {
                match name {
                    Some(name) => {
                        real.push(name);
                        self.remove(&real);
                    }
                    None => self.nodes.retain(|known, _| !(known.starts_with(&real) && *known != real)),
                }
            }
        }
        for (index, line) in lines.iter().enumerate() {
            self.line(line, first + index)?;
        }
        loop {
            let waiting: Vec<(Path, Path)> = (self.nodes.iter())
                .filter_map(|(path, node)| match node {
                    Node::Waiting(_, target) => Some((path.clone(), target.clone())),
                    _ => None,
                })
                .collect();
            let mut settled = false;
            for (path, target) in &waiting {
                match self.get(target)? {
                    Some(Node::Directory(_)) => return Err(Refused),
                    None | Some(Node::Waiting(..)) => {}
                    Some(node) => {
                        self.nodes.insert(path.clone(), node);
                        settled = true;
                    }
                }
            }
            if !settled {
                // The file may have lost this very name to a whiteout of the same layer.
                for (path, target) in &waiting {
                    if self.get(target)?.is_none()
                        && let Some(node) = below.get(target).unwrap_or(None)
                    {
                        if matches!(node, Node::Directory(_)) {
                            return Err(Refused);
                        }
                        self.nodes.insert(path.clone(), node);
                        settled = true;
                    }
                }
            }
            match (waiting.is_empty(), settled) {
                (true, _) => return Ok(()),
                (false, false) => return Err(Refused),
                (false, true) => {}
            }
        }
    }

    fn line(&mut self, line: &Line, serial: usize) -> Result<(), Refused> {
        let new = match &line.what {
            What::Whiteout | What::Opaque => return Ok(()),
            What::File => Node::File(serial),
            What::Fifo => Node::Fifo(serial),
            What::Symlink(target) => Node::Symlink(serial, target),
            What::Directory => Node::Directory(Some(serial)),
            What::HardLink(target) => Node::Waiting(serial, target.clone()),
        };
        if line.path.is_empty() {
            self.root = Some(serial);
            return if matches!(new, Node::Directory(_)) { Ok(()) } else { Err(Refused) };
        }
        let mut real = self.parent(&line.path)?;
        real.push(line.path[line.path.len() - 1]);
        let new = match new {
            Node::Waiting(serial, target) => match self.get(&target)? {
                Some(Node::Directory(_)) => return Err(Refused),
                Some(node @ (Node::File(_) | Node::Symlink(..) | Node::Fifo(_))) => {
                    if self.nodes.get(&real) == Some(&node) {
                        return Ok(());
                    }
                    node
                }
                Some(Node::Waiting(..)) | None => Node::Waiting(serial, target),
            },
            new => new,
        };
        if let (Node::Directory(_), Some(Node::Directory(_))) = (&new, self.nodes.get(&real)) {
            self.nodes.insert(real, new);
            return Ok(());
        }
        self.remove(&real);
        self.nodes.insert(real, new);
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("/ {:?}", Node::Directory(self.root))];
        lines.extend(self.nodes.iter().map(|(path, node)| format!("/{} {node:?}", path.join("/"))));
        lines
    }
}

/// The tree in the model's words: the serial number of an entry travels as its mtime, and as its content's position.
fn lines(tree: &Tree) -> Vec<String> {
    let serial = |inode: &ocifast_core::tree::Inode| usize::try_from(inode.metadata.mtime.seconds).expect("small");
    tree.walk()
        .map(|step| {
            let inode = tree.inode(step.inode);
            let node = match &inode.kind {
                InodeKind::File(content) => {
                    assert_eq!(content.position as usize, serial(inode));
                    Node::File(serial(inode))
                }
                InodeKind::Directory(_) => Node::Directory(serial(inode).checked_sub(1)),
                InodeKind::Symlink(target) => {
                    let target = SYMLINKS.iter().find(|known| known.as_bytes() == &**target).expect("known");
                    Node::Symlink(serial(inode), target)
                }
                InodeKind::Fifo => Node::Fifo(serial(inode)),
                other => panic!("{other:?}"),
            };
            format!("/{} {node:?}", String::from_utf8(step.path).expect("ASCII"))
        })
        .collect()
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SYMLINKS: [&str; 8] = ["a", "b/c", "/", "/b", "../c", "../../d", ".", "/a/../d/b"];

fn paths(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(&NAMES), lengths)
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![
        6 => (paths(1..4), Just(What::File)),
        5 => (paths(0..4), Just(What::Directory)),
        3 => (paths(1..4), prop::sample::select(&SYMLINKS).prop_map(What::Symlink)),
        4 => (paths(1..4), paths(0..4).prop_map(What::HardLink)),
        1 => (paths(1..4), Just(What::Fifo)),
        3 => (paths(1..4), Just(What::Whiteout)),
        1 => (paths(0..3), Just(What::Opaque)),
    ]
    .prop_map(|(path, what)| Line { path, what })
}

fn ingested(line: &Line, serial: usize) -> StoredEntry {
    let mut path = line.path.join("/");
    let kind = match &line.what {
        What::File => Kind::File { size: 1 },
        What::Directory => Kind::Directory,
        What::Symlink(target) => Kind::Symlink { target: target.as_bytes().to_vec() },
        What::HardLink(target) if target.is_empty() => Kind::HardLink { target: b"/".to_vec() },
        What::HardLink(target) => Kind::HardLink { target: target.join("/").into_bytes() },
        What::Fifo => Kind::Fifo,
        What::Whiteout => {
            let name = line.path[line.path.len() - 1];
            path = [&line.path[..line.path.len() - 1], &[&*format!(".wh.{name}")]].concat().join("/");
            Kind::File { size: 0 }
        }
        What::Opaque => {
            path = [&line.path[..], &[".wh..wh..opq"]].concat().join("/");
            Kind::File { size: 0 }
        }
    };
    if path.is_empty() {
        path.push('/');
    }
    // A directory that no entry made has time 0: all others count from 1.
    let shift = usize::from(matches!(kind, Kind::Directory));
    let mut metadata = Metadata { mode: 0o755, ..Metadata::default() };
    metadata.mtime.seconds = (serial + shift) as i64;
    let content = match kind {
        Kind::File { size } => Some(Content { layer: 0, position: serial as u64, size, extents: None }),
        _ => None,
    };
    StoredEntry { entry: Entry { path: path.into_bytes(), kind, metadata, offset: 0 }, content }
}

fn check(layers: &[Vec<Line>]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut merge = Merge::new(Limits::default());
    let mut serial = 0;
    for (index, layer) in layers.iter().enumerate() {
        let entries: Vec<StoredEntry> =
            layer.iter().enumerate().map(|(at, line)| ingested(line, serial + at)).collect();
        let expected = model.layer(layer, serial);
        let applied =
            if index == 0 { merge.lowest_layer([Ok(entries)]) } else { merge.upper_layer(vec![Batch::new(entries)]) };
        match (&expected, &applied) {
            (Ok(()), Ok(())) => {}
            (Err(Refused), Err(error)) => {
                prop_assert_eq!(error.code, ocifast_core::error::Code::EntryRefused);
                return Ok(());
            }
            _ => prop_assert!(false, "layer {index}: the model says {}, the merge {applied:?}", expected.is_ok()),
        }
        serial += layer.len();
    }
    let (tree, _) = merge.finish();
    let found = lines(&tree);
    prop_assert_eq!(tree.names() as usize, found.len());
    prop_assert_eq!(found, model.lines());
    check_links(&tree)
}

/// Every inode counts its names rightly, and is named `first` exactly once.
fn check_links(tree: &Tree) -> Result<(), TestCaseError> {
    let mut names = BTreeMap::new();
    for step in tree.walk() {
        let entry = names.entry(step.inode).or_insert((0, 0));
        entry.0 += 1;
        entry.1 += u32::from(step.first);
    }
    for (inode, counted) in names {
        prop_assert_eq!((tree.inode(inode).nlink, 1), counted);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_merge_does_what_the_model_does(
        layers in prop::collection::vec(prop::collection::vec(line(), 0..9), 1..5)
    ) {
        check(&layers)?;
    }

    #[test]
    fn a_whiteout_may_stand_anywhere_in_its_layer(
        lower in prop::collection::vec(line(), 0..12),
        entries in prop::collection::vec(line(), 0..6),
        whiteouts in prop::collection::vec(line(), 0..4),
    ) {
        let is_whiteout = |line: &Line| matches!(line.what, What::Whiteout | What::Opaque);
        let entries: Vec<Line> = entries.into_iter().filter(|line| !is_whiteout(line)).collect();
        let whiteouts: Vec<Line> = whiteouts.into_iter().filter(is_whiteout).collect();
        let flatten = |upper: Vec<&Line>| {
            let mut merge = Merge::new(Limits::default());
            let low: Vec<_> = lower.iter().enumerate().map(|(at, line)| ingested(line, at)).collect();
            merge.lowest_layer([Ok(low)]).ok()?;
            // The serial number belongs to the line, wherever it stands.
            let serial = |line: &Line| lower.len() + entries.iter().position(|known| std::ptr::eq(known, line)).unwrap_or(0);
            let upper = upper.into_iter().map(|line| ingested(line, serial(line))).collect();
            merge.upper_layer(vec![Batch::new(upper)]).ok()?;
            Some(lines(&merge.finish().0))
        };
        let before = flatten(whiteouts.iter().chain(&entries).collect());
        let after = flatten(entries.iter().chain(&whiteouts).collect());
        prop_assert_eq!(before, after);
    }
}
