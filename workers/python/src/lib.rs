//! `tasker_core._native`: the functions of the boundary and the client, with the GIL released while they wait.

use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tasker_client::calls::Calls;
use tasker_worker::boundary::{self, Boundary, BoundaryError};

/// Bytes of a message that are read in less time than other threads should wait for.
const SHORT: usize = 64 * 1024;

create_exception!(_native, NativeError, PyRuntimeError, "The boundary refuses; the arguments are (code, message).");

/// A running worker.
#[pyclass(frozen)]
#[derive(Debug)]
struct Worker(Boundary);

#[pymethods]
impl Worker {
    /// What the worker is, JSON.
    fn about(&self) -> &str {
        self.0.about()
    }

    /// Waits for steps and notices, at most this long.
    fn poll(&self, py: Python<'_>, wait_ms: u64) -> PyResult<String> {
        py.detach(|| self.0.wait(Duration::from_millis(wait_ms))).map_err(raised)?;
        self.0.poll(Duration::ZERO).map_err(raised)
    }

    /// Takes outcomes and answers what became of each.
    fn complete(&self, py: Python<'_>, message: &str) -> PyResult<String> {
        // It waits for nothing, and to get the GIL back takes longer than to read a short message.
        let completed =
            if message.len() <= SHORT { self.0.complete(message) } else { py.detach(|| self.0.complete(message)) };
        completed.map_err(raised)
    }

    /// How attempts are.
    fn heartbeat(&self, py: Python<'_>, message: &str) -> PyResult<String> {
        py.detach(|| self.0.heartbeat(message)).map_err(raised)
    }

    /// Stops; without a grace, with the configuration's.
    #[pyo3(signature = (grace_ms=None))]
    fn stop(&self, py: Python<'_>, grace_ms: Option<u64>) -> PyResult<()> {
        py.detach(|| self.0.stop(grace_ms.map(Duration::from_millis))).map_err(raised)
    }
}

/// A client of one server.
#[pyclass(frozen)]
#[derive(Debug)]
struct Client(Calls);

#[pymethods]
impl Client {
    /// Of the server at this address; without one, of the configuration's.
    #[new]
    #[pyo3(signature = (url=None))]
    fn new(url: Option<String>) -> PyResult<Self> {
        let url = url.map_or_else(boundary::orchestration_url, Ok).map_err(raised)?;
        Ok(Self(Calls::new(url)))
    }

    /// One operation, JSON, and its answer.
    fn call(&self, py: Python<'_>, message: &str) -> String {
        py.detach(|| self.0.call(message))
    }
}

/// A task in memory.
#[pyclass(frozen)]
#[derive(Debug)]
struct Simulation(boundary::Simulation);

#[pymethods]
impl Simulation {
    /// Starts a task.
    #[new]
    fn new(message: &str) -> PyResult<Self> {
        boundary::Simulation::start(message).map(Self).map_err(raised)
    }

    /// The steps that can run now.
    fn next(&self) -> PyResult<String> {
        self.0.next().map_err(raised)
    }

    /// Takes outcomes and answers what became of each.
    fn complete(&self, message: &str) -> PyResult<String> {
        self.0.complete(message).map_err(raised)
    }

    /// How the task is.
    fn state(&self) -> PyResult<String> {
        self.0.state().map_err(raised)
    }
}

/// Starts a worker.
#[pyfunction]
fn start(py: Python<'_>, message: &str) -> PyResult<Worker> {
    py.detach(|| Boundary::start(message)).map(Worker).map_err(raised)
}

/// The versions of the boundary and of this library, JSON.
#[pyfunction]
fn version() -> String {
    Boundary::version()
}

fn raised(error: BoundaryError) -> PyErr {
    NativeError::new_err((error.code(), error.to_string()))
}

/// The module.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("NativeError", module.py().get_type::<NativeError>())?;
    module.add_class::<Worker>()?;
    module.add_class::<Client>()?;
    module.add_class::<Simulation>()?;
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(version, module)?)
}
