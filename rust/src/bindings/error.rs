use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;

/// The exception of `ocifast.errors` for a failure of the core: `?` in a binding raises it.
impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        Python::attach(|py| build(py, &error).unwrap_or_else(|failure| failure))
    }
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let context = PyDict::new(py);
    let known = &error.context;
    context.set_item("layer", known.layer.as_deref())?;
    context.set_item("offset", known.offset)?;
    context.set_item("path", known.path.as_deref().map(|path| path.escape_ascii().to_string()))?;
    context.set_item("expected", known.expected.as_deref())?;
    context.set_item("seen", known.seen.as_deref())?;
    context.set_item("errno", known.errno)?;
    let make = py.import("ocifast.errors")?.getattr("from_core")?;
    Ok(PyErr::from_value(make.call1((error.code.as_str(), error.to_string(), context))?))
}
