//! What the upper layers of an image say for certain, whatever the layers below them hold.
//!
//! The answer to a question about a path is certain when every image that ends in these layers gives it. Names are
//! therefore in three states: known, known to be hidden, and unknown, where a lower layer may have anything, also a
//! symbolic link that leads entries of these layers elsewhere. An entry below an unknown name may be anywhere: its own
//! name is noted, and nothing that goes through such a name is certain. Each doubt leads to "not certain" and costs one
//! more layer; an image that the merge refuses may be answered for as if it were sound.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::fate::{Fate, fate};
use crate::batch::{Batch, EntryView};
use crate::limits::Limits;
use crate::path;
use crate::tree::SYMLINKS_MAX;

/// Names that may be looked at before all is given up as uncertain: seconds of work, far more than images need.
const STEPS_MAX: u64 = 1 << 27;

const ROOT: usize = 0;

/// What is asked about a path of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What is there, with its metadata and its content.
    Entry,
    /// The path without links that leads there.
    Path,
    /// What is in the directory.
    Children,
    /// What is in the directory at any depth.
    All,
}

/// A name of a directory: an inode, or nothing, for certain.
type NamesBelow = HashMap<Box<[u8]>, Option<usize>>;

enum Node {
    /// `open`: names that do not stand here may be in lower layers. All that is below a closed one is closed.
    Directory {
        children: NamesBelow,
        open: bool,
    },
    Link(Box<[u8]>),
    /// Anything else, with its metadata and content.
    File,
    /// Something, but no directory: a hard link to what is not known.
    Vague,
}

/// Where a path leads.
enum PathLead {
    At(usize),
    /// To a name that is certainly not there, and what comes after it.
    Missing {
        directory: usize,
        rest: Vec<Box<[u8]>>,
    },
    /// Through something that is no directory.
    Blocked,
    Unknown,
}

/// A whiteout: the directory's path, and the name; all names without one.
type HiddenName = (Vec<Box<[u8]>>, Option<Box<[u8]>>);

/// Where a path leads that is taken by the letter, through no link.
enum LiteralReach {
    Directory(usize),
    Link,
    Nowhere,
    Unknown,
}

/// What is certain.
pub struct Known {
    nodes: Vec<Node>,
    /// The names of entries and whiteouts of which it is not known where they are.
    astray: HashSet<Box<[u8]>>,
    /// Whether the root's own metadata are known.
    root: bool,
    /// The path of the last entry of all, where it is a regular file: wherever links of lower layers have led it, nothing
    /// came after it that could lead this path elsewhere.
    last: Option<Vec<Box<[u8]>>>,
    /// Whether nothing is certain.
    lost: bool,
    steps: AtomicU64,
    limits: Limits,
}

impl Known {
    /// Looks at the uppermost layers, given lowest first.
    pub fn new<'b>(layers: impl IntoIterator<Item = &'b [Batch]>, limits: Limits) -> Self {
        let nodes = vec![Node::Directory { children: NamesBelow::new(), open: true }];
        let mut known = Known {
            nodes,
            astray: HashSet::new(),
            root: false,
            last: None,
            lost: false,
            steps: AtomicU64::default(),
            limits,
        };
        for layer in layers {
            if !known.lost {
                known.apply(layer);
            }
        }
        known
    }

    /// Whether the answer is certain. `follow` says whether a link at the path's end is followed.
    pub fn settles(&self, path: &[u8], follow: bool, question: Question) -> bool {
        let Ok(components) = path::clean(if path.is_empty() { b"/" } else { path }, &Limits::default()) else {
            // No tree has it.
            return true;
        };
        if self.lost {
            return false;
        }
        if question == Question::Entry
            && self.last.as_ref().is_some_and(|last| last.iter().map(|name| &**name).eq(components.iter().copied()))
        {
            return true;
        }
        match self.walk(&components, follow) {
            PathLead::Unknown => false,
            PathLead::Blocked => true,
            PathLead::Missing { .. } => self.astray.is_empty(),
            PathLead::At(node) => match question {
                _ if node == ROOT && !self.root => false,
                Question::Entry | Question::Path => !matches!(self.nodes[node], Node::Vague),
                Question::Children | Question::All => self.lists(node, question == Question::All),
            },
        }
    }

    /// Whether all names in a directory are known, and what they lead to.
    fn lists(&self, node: usize, all: bool) -> bool {
        let mut waiting = vec![node];
        while let Some(node) = waiting.pop() {
            let Node::Directory { children, open } = &self.nodes[node] else {
                continue;
            };
            if *open || !self.astray.is_empty() {
                return false;
            }
            for &child in children.values().flatten() {
                match self.nodes[child] {
                    Node::Vague => return false,
                    Node::Directory { .. } if all => waiting.push(child),
                    _ => {}
                }
            }
        }
        !matches!(self.nodes[node], Node::Vague)
    }

    /// Follows a path, links and all.
    fn walk(&self, path: &[&[u8]], follow_last: bool) -> PathLead {
        let mut stack = vec![ROOT];
        let mut rest: Vec<&[u8]> = path.iter().rev().copied().collect();
        let mut followed = 0;
        while let Some(name) = rest.pop() {
            if !self.step(1) {
                return PathLead::Unknown;
            }
            match name {
                b"" | b"." => continue,
                b".." => {
                    stack.truncate((stack.len() - 1).max(1));
                    continue;
                }
                _ if self.astray.contains(name) => return PathLead::Unknown,
                _ => {}
            }
            let directory = *stack.last().unwrap_or(&ROOT);
            let Node::Directory { children, open } = &self.nodes[directory] else {
                return PathLead::Blocked;
            };
            let child = match children.get(name) {
                Some(Some(child)) => *child,
                None if *open => return PathLead::Unknown,
                None | Some(None) => {
                    rest.push(name);
                    return PathLead::Missing { directory, rest: rest.into_iter().rev().map(Into::into).collect() };
                }
            };
            match &self.nodes[child] {
                Node::Link(target) if follow_last || !rest.is_empty() => {
                    followed += 1;
                    if followed > SYMLINKS_MAX || !self.step(target.len() as u64) {
                        return PathLead::Unknown;
                    }
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    rest.extend(target.split(|&byte| byte == b'/').rev());
                }
                // It may be a link.
                Node::Vague if follow_last || !rest.is_empty() => return PathLead::Unknown,
                Node::Directory { .. } => stack.push(child),
                _ if !rest.is_empty() => return PathLead::Blocked,
                _ => return PathLead::At(child),
            }
        }
        PathLead::At(*stack.last().unwrap_or(&ROOT))
    }

    /// Counts work; false when there is too much of it.
    fn step(&self, steps: u64) -> bool {
        self.steps.fetch_add(steps, Ordering::Relaxed) + steps <= STEPS_MAX
    }

    fn apply(&mut self, layer: &[Batch]) {
        self.last = None;
        let hidden = self.whiteouts(layer);
        self.each(layer, |known, entry, fate| {
            if let Fate::Kept(path) = fate {
                known.entry(entry, &path);
            }
        });
        for (directory, name) in hidden {
            self.hide_below(&directory, name);
        }
    }

    /// Hands on every entry and what its path makes of it, until nothing is certain.
    fn each(&mut self, layer: &[Batch], mut take: impl FnMut(&mut Self, &EntryView<'_>, Fate<'_>)) {
        let limits = self.limits.clone();
        for batch in layer {
            let mut entries = batch.views();
            while let Some(entry) = entries.next_view() {
                match fate(entry.path, &limits) {
                    Ok(fate) if !self.lost && self.nodes.len() as u64 <= limits.entries => take(self, &entry, fate),
                    _ => {
                        self.lost = true;
                        return;
                    }
                }
            }
        }
    }

    /// Applies what a layer hides of the lower ones. Returns the whiteouts whose directory is not known, but is one of
    /// this layer's own: there they hide what lower layers have, and if lower layers have a link in its place, nothing.
    fn whiteouts(&mut self, layer: &[Batch]) -> Vec<HiddenName> {
        let mut found: Vec<HiddenName> = Vec::new();
        self.each(layer, |_, _, fate| match fate {
            Fate::Whiteout { parent, name } => found.push((owned(&parent), Some(name.into()))),
            Fate::Opaque { directory } => found.push((owned(&directory), None)),
            Fate::Kept(_) | Fate::Bookkeeping => {}
        });
        // Looked up before anything is done.
        let reached: Vec<LiteralReach> = found.iter().map(|(directory, _)| self.reach(directory)).collect();
        let mut own = Directories::default();
        if reached.iter().any(|reach| matches!(reach, LiteralReach::Link | LiteralReach::Unknown)) {
            self.each(layer, |known, entry, fate| {
                if let Fate::Kept(path) = fate
                    && entry.is_directory()
                {
                    own.add(&path);
                    known.lost |= !known.step(path.len() as u64);
                }
            });
        }
        let mut later = Vec::new();
        for ((directory, name), reach) in found.into_iter().zip(reached) {
            match (reach, name) {
                (LiteralReach::Nowhere, _) => {}
                (LiteralReach::Directory(node), Some(name)) => self.hide(node, name),
                (LiteralReach::Directory(node), None) => {
                    self.nodes[node] = Node::Directory { children: NamesBelow::new(), open: false };
                }
                (_, name) if own.contains(&directory) => later.push((directory, name)),
                (LiteralReach::Unknown, Some(name)) => drop(self.astray.insert(name)),
                (LiteralReach::Unknown, None) | (LiteralReach::Link, _) => self.lost = true,
            }
        }
        later
    }

    fn reach(&self, path: &[Box<[u8]>]) -> LiteralReach {
        let mut at = ROOT;
        for name in path {
            if !self.step(1) || self.astray.contains(name) {
                return LiteralReach::Unknown;
            }
            let Node::Directory { children, open } = &self.nodes[at] else { return LiteralReach::Nowhere };
            match children.get(name) {
                None if *open => return LiteralReach::Unknown,
                None | Some(None) if !self.astray.is_empty() => return LiteralReach::Unknown,
                None | Some(None) => return LiteralReach::Nowhere,
                Some(Some(child)) => match self.nodes[*child] {
                    Node::Directory { .. } => at = *child,
                    Node::Link(_) => return LiteralReach::Link,
                    Node::Vague => return LiteralReach::Unknown,
                    Node::File => return LiteralReach::Nowhere,
                },
            }
        }
        LiteralReach::Directory(at)
    }

    fn hide(&mut self, directory: usize, name: Box<[u8]>) {
        if let Node::Directory { children, .. } = &mut self.nodes[directory] {
            children.insert(name, None);
        }
    }

    /// A whiteout in a directory that the layer itself has put there: the directory holds the layer's own names only.
    fn hide_below(&mut self, directory: &[Box<[u8]>], name: Option<Box<[u8]>>) {
        let LiteralReach::Directory(node) = self.reach(directory) else { return };
        let Some(name) = name else { return self.shut(node) };
        let Node::Directory { children, .. } = &self.nodes[node] else { return };
        match children.get(&name).copied().flatten() {
            Some(child) => self.shut(child),
            None => self.hide(node, name),
        }
    }

    /// Lower layers have nothing in this directory, nor in those below it.
    fn shut(&mut self, node: usize) {
        let mut waiting = vec![node];
        while let Some(node) = waiting.pop() {
            if let Node::Directory { children, open } = &mut self.nodes[node]
                && std::mem::take(open)
            {
                waiting.extend(children.values().flatten());
            }
        }
    }

    fn entry(&mut self, entry: &EntryView<'_>, path: &[&[u8]]) {
        let Some((name, parent)) = path.split_last() else {
            self.root = true;
            self.lost |= !entry.is_directory();
            self.last = None;
            return;
        };
        self.last = entry.is_file().then(|| owned(path));
        let Some(directory) = self.parent(parent) else {
            self.astray.insert((*name).into());
            return;
        };
        if entry.is_directory() {
            return self.directory(directory, name);
        }
        let node = match (entry.hard_link(), entry.symlink()) {
            (Some(target), _) => self.linked(target),
            (None, Some(target)) => self.add(Node::Link(target.into())),
            (None, None) => self.add(Node::File),
        };
        if let Node::Directory { children, .. } = &mut self.nodes[directory] {
            children.insert((*name).into(), Some(node));
        }
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The file that a hard link names. One that is not known may still come, or be in a lower layer.
    fn linked(&mut self, target: &[u8]) -> usize {
        let walk = path::clean(target, &self.limits).map_or(PathLead::Unknown, |target| self.walk(&target, false));
        match walk {
            PathLead::At(node) if !matches!(self.nodes[node], Node::Directory { .. }) => node,
            PathLead::At(_) => {
                self.lost = true;
                self.add(Node::Vague)
            }
            PathLead::Missing { .. } | PathLead::Blocked | PathLead::Unknown => self.add(Node::Vague),
        }
    }

    fn directory(&mut self, parent: usize, name: &[u8]) {
        let Node::Directory { children, open } = &self.nodes[parent] else { return };
        let (there, open) = (children.get(name), *open);
        if let Some(Some(there)) = there
            && matches!(self.nodes[*there], Node::Directory { .. })
        {
            return;
        }
        let open = open && there.is_none();
        let node = self.add(Node::Directory { children: NamesBelow::new(), open });
        if let Node::Directory { children, .. } = &mut self.nodes[parent] {
            children.insert(name.into(), Some(node));
        }
    }

    /// The directory that an entry goes to; what is missing on the way is made. None when it is not known.
    fn parent(&mut self, path: &[&[u8]]) -> Option<usize> {
        match self.walk(path, true) {
            PathLead::At(node) if matches!(self.nodes[node], Node::Directory { .. }) => Some(node),
            PathLead::At(_) | PathLead::Blocked => {
                // No such image is taken.
                self.lost = true;
                None
            }
            PathLead::Missing { directory, rest }
                if self.astray.is_empty() && !rest.iter().any(|name| **name == *b"..") =>
            {
                let mut at = directory;
                for name in rest.into_iter().filter(|name| !matches!(&**name, b"" | b".")) {
                    let node = self.add(Node::Directory { children: NamesBelow::new(), open: false });
                    if let Node::Directory { children, .. } = &mut self.nodes[at] {
                        children.insert(name, Some(node));
                    }
                    at = node;
                }
                Some(at)
            }
            PathLead::Missing { .. } | PathLead::Unknown => None,
        }
    }
}

fn owned(path: &[&[u8]]) -> Vec<Box<[u8]>> {
    path.iter().map(|&name| name.into()).collect()
}

/// The directories that a layer has entries of, by the letter of their paths.
#[derive(Default)]
struct Directories {
    /// The names below a number, and theirs.
    numbers: HashMap<(usize, Box<[u8]>), usize>,
    entries: HashSet<usize>,
}

impl Directories {
    fn add(&mut self, path: &[&[u8]]) {
        let mut at = 0;
        for &name in path {
            let next = self.numbers.len() + 1;
            at = *self.numbers.entry((at, name.into())).or_insert(next);
        }
        self.entries.insert(at);
    }

    /// Whether the layer has an entry for each directory of a path.
    fn contains(&self, path: &[Box<[u8]>]) -> bool {
        let mut at = 0;
        path.iter().all(|name| {
            let found = self.numbers.get(&(at, name.clone())).copied();
            at = found.unwrap_or_default();
            found.is_some_and(|number| self.entries.contains(&number))
        })
    }
}
