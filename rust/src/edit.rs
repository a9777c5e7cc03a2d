//! What a user changes in a finished tree: names left out, a folder made the root, owners, places for mounts.
//!
//! An edit is a value, applied once, before anyone reads the tree: a pure function from tree to tree. What a user adds
//! is no affair of this module: added files are one more layer, see `merge`.

mod owners;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::entry::{Metadata, Mtime};
use crate::error::{Code, Error, Result};
use crate::tree::{InodeKind, Tree};

/// Directories that a booting system mounts something on, with their modes.
pub const MOUNT_POINTS: [(&[u8], u16); 5] =
    [(b"dev", 0o755), (b"proc", 0o555), (b"run", 0o755), (b"sys", 0o555), (b"tmp", 0o1777)];

/// The changes, made in the order of the fields. `Default` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// What is left out: patterns of gitignore(5), relative to the image's root; a later one outweighs earlier ones, and
    /// `!` takes back. What is below a directory that is left out cannot be taken back.
    pub exclude: Vec<String>,
    /// The directory that becomes the root; links on its path and at its end are followed inside the tree.
    pub subtree: Option<Vec<u8>>,
    /// Makes the directories of [`MOUNT_POINTS`] where their names are free, with this time.
    pub mount_points: Option<Mtime>,
    /// Owner and group of everything.
    pub owner: Option<(u32, u32)>,
    /// Added to every owner and group, also to those in access control lists and file capabilities.
    pub id_offset: u32,
}

/// An edited tree.
#[derive(Debug)]
pub struct Edited {
    /// The tree.
    pub tree: Tree,
    /// The patterns of `exclude` that match nothing in it, in their order.
    pub unmatched: Vec<String>,
}

impl Edit {
    /// Makes the changes.
    ///
    /// # Errors
    /// `usage_invalid` for a malformed pattern, a subtree that is not a directory, an id that would leave 32 bits;
    /// `path_not_found` for a subtree that is not there.
    pub fn apply(&self, mut tree: Tree) -> Result<Edited> {
        let unmatched = exclude(&mut tree, &self.exclude)?;
        if let Some(path) = &self.subtree {
            let directory = tree.lookup(path, true)?;
            if tree.inode(directory).children().is_none() {
                let path = path.strip_prefix(b"/").unwrap_or(path);
                return Err(invalid(format!("the subtree /{} is no directory", path.escape_ascii())));
            }
            tree.reroot(directory);
        }
        if let Some(mtime) = self.mount_points {
            make_mount_points(&mut tree, mtime)?;
        }
        owners::change(&mut tree, self.owner, self.id_offset)?;
        Ok(Edited { tree, unmatched })
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::Usage, message)
}

/// One pattern of gitignore(5).
struct Pattern {
    matcher: Gitignore,
    matched: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| invalid(format!("\"{}\" is no pattern for paths: {why}", text.escape_debug()));
        let mut builder = GitignoreBuilder::new("");
        builder.add_line(None, &without_alternatives(text)).map_err(|error| bad(error.to_string()))?;
        let matcher = builder.build().map_err(|error| bad(error.to_string()))?;
        if matcher.is_empty() {
            return Err(bad("it is empty or a comment".into()));
        }
        Ok(Pattern { matcher, matched: false })
    }

    /// What the pattern says of a path: leave it out, keep it, or nothing.
    fn verdict(&mut self, path: &[u8], is_directory: bool) -> Option<bool> {
        let verdict = match self.matcher.matched(Path::new(OsStr::from_bytes(path)), is_directory) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        };
        self.matched |= verdict.is_some();
        verdict
    }
}

/// The pattern with its braces escaped: they mean alternatives to the matcher, and themselves in gitignore(5).
fn without_alternatives(text: &str) -> String {
    let (mut out, mut escaped) = (String::with_capacity(text.len()), false);
    // Whether we are in a class, and where a `]` still stands for itself: at its beginning.
    let (mut in_class, mut begins) = (false, false);
    for character in text.chars() {
        if !escaped && !in_class && matches!(character, '{' | '}') {
            out.push('\\');
        }
        match character {
            _ if escaped => {}
            '[' if !in_class => (in_class, begins) = (true, true),
            '!' | '^' if begins && out.ends_with('[') => {}
            ']' if !begins => in_class = false,
            _ => begins = false,
        }
        escaped = !escaped && !in_class && character == '\\';
        out.push(character);
    }
    out
}

/// Takes away what the patterns leave out; returns those that match nothing.
fn exclude(tree: &mut Tree, patterns: &[String]) -> Result<Vec<String>> {
    let mut matchers = patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>>>()?;
    if matchers.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    // The directories from the root to where the walk is, with the ends of their paths; the last that is left out.
    let mut parents = vec![(tree.root(), 0)];
    let mut out: Option<usize> = None;
    for step in tree.walk().skip(1) {
        let name_at = step.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let end = name_at.saturating_sub(1);
        while parents.last().is_some_and(|&(_, length)| length > end) {
            parents.pop();
        }
        if out.is_some_and(|depth| depth >= parents.len()) {
            out = None;
        }
        let is_directory = tree.inode(step.inode).children().is_some();
        // Every pattern is asked about every path, so that those that match nothing are known.
        let verdict =
            matchers.iter_mut().fold(None, |last, matcher| matcher.verdict(&step.path, is_directory).or(last));
        let directory = parents.last().map_or(tree.root(), |&(directory, _)| directory);
        if out.is_none() && verdict == Some(true) {
            found.push((directory, step.path[name_at..].to_vec()));
            out = is_directory.then_some(parents.len());
        }
        if is_directory {
            parents.push((step.inode, step.path.len()));
        }
    }
    for (directory, name) in found {
        tree.unlink(directory, &name);
    }
    let unmatched = matchers.iter().zip(patterns).filter(|(matcher, _)| !matcher.matched);
    Ok(unmatched.map(|(_, text)| text.clone()).collect())
}

fn make_mount_points(tree: &mut Tree, mtime: Mtime) -> Result<()> {
    let root = tree.root();
    for (name, mode) in MOUNT_POINTS {
        if tree.child(root, name).is_none() {
            let metadata = Metadata { mode, mtime, ..Metadata::default() };
            let directory = tree.add(metadata, InodeKind::Directory(Default::default()))?;
            tree.link(root, name, directory)?;
        }
    }
    Ok(())
}
