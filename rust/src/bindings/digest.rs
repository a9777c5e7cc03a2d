use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::digest as core;

#[pyfunction]
#[pyo3(signature = (data, /))]
pub(super) fn digest(py: Python<'_>, data: PyBackedBytes) -> String {
    py.detach(|| core::Digest::of(&data).as_str().to_owned())
}

#[pyfunction]
#[pyo3(signature = (text, /))]
pub(super) fn check_digest(text: &str) -> PyResult<()> {
    text.parse::<core::Digest>()?;
    Ok(())
}

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Hasher(std::sync::Mutex<core::Hasher>);

#[pymethods]
impl Hasher {
    #[new]
    #[pyo3(signature = (algorithm = "sha256"))]
    fn new(algorithm: &str) -> PyResult<Self> {
        let algorithm = algorithm.parse()?;
        Ok(Hasher(std::sync::Mutex::new(core::Hasher::new(algorithm))))
    }

    #[pyo3(signature = (data, /))]
    fn update(&self, py: Python<'_>, data: PyBackedBytes) {
        py.detach(|| self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).update(&data));
    }

    fn digest(&self) -> String {
        let hasher = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        hasher.finish().as_str().to_owned()
    }
}
