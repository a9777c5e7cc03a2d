//! Decoded layers: what a layer is once it was hashed, inflated and parsed.
//!
//! A table of its entries, which is all that the merge reads, and a file with its data ([`crate::blocks`]), which becomes
//! an erofs image of the layer alone. The contract stands in `docs/decisions/`.

mod adopt;
mod form;
mod keep;
mod later;
mod overlay;
mod reader;
mod writer;

pub use adopt::DecodedLayer;
pub use form::{FORM, SEMANTICS};
pub use keep::{Keep, Keeping, KeepingStore, KeptLayer};
pub use later::{DATA_END, LaterLayer, place_of};
pub use overlay::{ATTRIBUTE, OverlayView, REASONS, Reason, explain};
pub use reader::{Table, TableEntries};
pub use writer::{TableFacts, TableWriter};
