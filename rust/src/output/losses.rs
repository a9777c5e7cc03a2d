//! What an output could not hold, counted by cause: memory follows the causes, not the entries.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Paths that one loss names at most.
const PATHS: usize = 10;
/// Bytes of the paths that all losses name at most: one entry of a long path may have a cause for each attribute.
const PATH_BYTES: usize = 1 << 20;

/// Something of the tree that an output could not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Stable name of the kind: `owner`, `xattr`, `device`, `mtime`, ...
    pub kind: &'static str,
    /// What was lost, the same for all entries.
    pub detail: String,
    /// How often.
    pub count: u64,
    /// The first few paths, without a leading slash.
    pub paths: Vec<Vec<u8>>,
}

/// Losses as they come up.
#[derive(Debug, Default)]
pub struct Losses {
    found: Vec<Loss>,
    known: HashMap<(&'static str, String), usize>,
    path_bytes: usize,
}

impl Losses {
    /// One more, at `path`.
    pub fn add(&mut self, kind: &'static str, path: &[u8], detail: impl Into<String>) {
        let loss = match self.known.entry((kind, detail.into())) {
            Entry::Occupied(known) => &mut self.found[*known.get()],
            Entry::Vacant(new) => {
                let detail = new.key().1.clone();
                new.insert(self.found.len());
                self.found.push(Loss { kind, detail, count: 0, paths: Vec::new() });
                let last = self.found.len() - 1;
                &mut self.found[last]
            }
        };
        loss.count += 1;
        if loss.paths.len() < PATHS && self.path_bytes + path.len() <= PATH_BYTES {
            self.path_bytes += path.len();
            loss.paths.push(path.to_vec());
        }
    }

    /// All, in the order of their first appearance.
    pub fn into_vec(self) -> Vec<Loss> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_causes_are_counted_and_some_paths_named() {
        let mut losses = Losses::default();
        losses.add("owner", b"a", "x");
        losses.add("xattr", b"b", "x");
        for index in 0..20 {
            losses.add("owner", format!("c{index}").as_bytes(), "x");
        }
        losses.add("owner", b"d", "y");
        let paths = |index| [b"a".to_vec()].into_iter().chain((0..index).map(|at| format!("c{at}").into())).collect();
        let expected = [
            Loss { kind: "owner", detail: "x".into(), count: 21, paths: paths(9) },
            Loss { kind: "xattr", detail: "x".into(), count: 1, paths: vec![b"b".to_vec()] },
            Loss { kind: "owner", detail: "y".into(), count: 1, paths: vec![b"d".to_vec()] },
        ];
        assert_eq!(losses.into_vec(), expected);
    }

    #[test]
    fn long_paths_of_many_causes_are_named_up_to_a_bound() {
        let mut losses = Losses::default();
        let path = [b'p'; 64 << 10];
        (0..100).for_each(|index| losses.add("xattr", &path, index.to_string()));
        let losses = losses.into_vec();
        assert_eq!(losses.iter().map(|loss| loss.count).sum::<u64>(), 100);
        assert_eq!(losses.iter().map(|loss| loss.paths.len()).sum::<usize>(), PATH_BYTES >> 16);
    }
}
