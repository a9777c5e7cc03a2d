//! One run that makes two trees of layers that are the same at the bottom.

use crate::merge::{Merge, Notices};
use crate::tree::Tree;

/// One tree, or two where layers branch; nothing when a layer did not become complete or could not be applied.
pub(super) type Merged = Option<Vec<(Tree, Notices)>>;

/// What is made of the layers besides one tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Making {
    /// A second tree.
    pub branch: Option<Branch>,
    /// Whether trees keep what layers hide: see [`Tree::each_gone`].
    pub removed: bool,
    /// Whether the layers are given highest first and read one after the other, until enough is known: see
    /// `Flattener::wait_for`.
    pub from_top: bool,
}

/// Two images that have their lowest layers in common.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// How many layers are the lowest ones of both.
    pub base: usize,
    /// The first layer of those that only the second image has, which come last.
    pub at: usize,
}

/// Before layer number `layer`, or after all: sets the common base aside, or goes on from it once the first tree is done.
pub(super) fn branch(
    mut merge: Merge,
    mut lowest: bool,
    layer: usize,
    branch: Option<Branch>,
    base: &mut Option<Merge>,
    trees: &mut Vec<(Tree, Notices)>,
) -> (Merge, bool) {
    let Some(branch) = branch else { return (merge, lowest) };
    if layer == branch.base {
        *base = Some(merge.branch());
    }
    if layer == branch.at
        && let Some(base) = base.take()
    {
        trees.push(std::mem::replace(&mut merge, base).finish());
        lowest = branch.base == 0;
    }
    (merge, lowest)
}
