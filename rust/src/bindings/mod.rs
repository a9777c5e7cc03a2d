//! The Python module `ocifast._core`: one file per noun, no logic. Every call takes its arguments, runs with the GIL
//! released, and maps the error.

mod compare;
mod decoded;
mod decompress;
mod digest;
mod edit;
mod error;
mod fd;
mod flatten;
mod frames;
mod layer;
mod output;
mod pages;
mod read;
mod tar;
mod tree;
mod usage;
mod verity;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::compare::compare;
    #[pymodule_export]
    use super::decoded::{
        KeptLayer, LayerTable, layer_digest, layers_in_use, write_layered_erofs, write_private_layers,
    };
    #[pymodule_export]
    use super::decompress::{check_points, decompress};
    #[pymodule_export]
    use super::digest::{Hasher, check_digest, copy_file, digest, file_digest, start_writeback};
    #[pymodule_export]
    use super::edit::Edit;
    #[pymodule_export]
    use super::flatten::{Flattener, Limits};
    #[pymodule_export]
    use super::frames::{FrameWriter, compress_frames};
    #[pymodule_export]
    use super::layer::{write_folder, write_layer};
    #[pymodule_export]
    use super::output::SquashfsCompression;
    #[pymodule_export]
    use super::read::{read_image, verify};
    #[pymodule_export]
    use super::tar::tar_header;
    #[pymodule_export]
    use super::tree::Tree;
    #[pymodule_export]
    use super::usage::usage;
    #[pymodule_export]
    use super::verity::seal_verity;
    use crate::error::Code;
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("MERGE_VERSION", crate::merge::VERSION)?;
        let codes = Code::ALL.iter().map(|code| code.as_str());
        module.add("CODES", PyTuple::new(module.py(), codes)?)
    }
}
