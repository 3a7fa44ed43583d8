//! The functions of the boundary, the client and the simulation for Node, Bun and Deno. Those that wait do so on a thread
//! of their own and answer with promises. The others are called as they are: a way through another thread would cost more
//! than they take, some microseconds, for the largest result some milliseconds. A refusal is an answer, not an exception,
//! so that its code survives every runtime.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use napi::bindgen_prelude::{Either, Object, ToNapiValue};
use napi::{Env, Error, Status};
use napi_derive::napi;
use tasker_client::calls::Calls;
use tasker_worker::boundary::{self, Boundary, BoundaryError, Simulation};

/// The boundary refuses.
#[napi(object)]
#[derive(Debug)]
pub struct Refusal {
    /// For programs; docs/boundary.md has all of them.
    pub code: String,
    /// For people.
    pub refused: String,
}

/// A running worker.
#[napi]
#[derive(Debug)]
pub struct Worker(Arc<Boundary>);

#[napi]
impl Worker {
    /// What the worker is, JSON.
    #[napi]
    pub fn about(&self) -> String {
        self.0.about().to_owned()
    }

    /// Waits for steps and notices, at most this long; a promise.
    ///
    /// # Errors
    /// Where no thread can be started.
    #[napi]
    pub fn poll<'env>(&self, env: &'env Env, wait_ms: u32) -> napi::Result<Object<'env>> {
        let boundary = Arc::clone(&self.0);
        promised(env, move || boundary.poll(Duration::from_millis(wait_ms.into())))
    }

    /// Takes outcomes and answers what became of each.
    #[napi]
    pub fn complete(&self, message: String) -> Either<String, Refusal> {
        answered(self.0.complete(&message))
    }

    /// How attempts are.
    #[napi]
    pub fn heartbeat(&self, message: String) -> Either<String, Refusal> {
        answered(self.0.heartbeat(&message))
    }

    /// Stops; without a grace, with the configuration's. A promise.
    ///
    /// # Errors
    /// Where no thread can be started.
    #[napi]
    pub fn stop<'env>(&self, env: &'env Env, grace_ms: Option<u32>) -> napi::Result<Object<'env>> {
        let boundary = Arc::clone(&self.0);
        promised(env, move || boundary.stop(grace_ms.map(|ms| Duration::from_millis(ms.into()))))
    }
}

impl Drop for Worker {
    /// The thread of the runtime that it was started on has ended without stopping it: nobody runs its steps any more.
    fn drop(&mut self) {
        let boundary = Arc::clone(&self.0);
        // Where it has stopped, this is refused; where no thread can be started, its leases end by themselves.
        let _stopping = thread::Builder::new().spawn(move || boundary.stop(Some(Duration::ZERO)));
    }
}

/// Starts a worker; a promise.
///
/// # Errors
/// Where no thread can be started.
#[napi]
pub fn start<'env>(env: &'env Env, message: String) -> napi::Result<Object<'env>> {
    promised(env, move || Boundary::start(&message).map(|boundary| Worker(Arc::new(boundary))))
}

/// A client of one server.
#[napi]
#[derive(Debug)]
pub struct Client(Arc<Calls>);

#[napi]
impl Client {
    /// One operation, JSON; a promise of its answer.
    ///
    /// # Errors
    /// Where no thread can be started.
    #[napi]
    pub fn call<'env>(&self, env: &'env Env, message: String) -> napi::Result<Object<'env>> {
        let calls = Arc::clone(&self.0);
        promised(env, move || Ok(calls.call(&message)))
    }
}

/// A client of the server at this address; without one, of the configuration's.
#[napi]
pub fn client(url: Option<String>) -> Either<Client, Refusal> {
    let url = url.map_or_else(boundary::orchestration_url, Ok);
    answered(url.map(|url| Client(Arc::new(Calls::new(url)))))
}

/// A task in memory.
#[napi]
#[derive(Debug)]
pub struct Simulated(Simulation);

#[napi]
impl Simulated {
    /// The steps that can run now.
    #[napi]
    pub fn next(&self) -> Either<String, Refusal> {
        answered(self.0.next())
    }

    /// Takes outcomes and answers what became of each.
    #[napi]
    pub fn complete(&self, message: String) -> Either<String, Refusal> {
        answered(self.0.complete(&message))
    }

    /// How the task is.
    #[napi]
    pub fn state(&self) -> Either<String, Refusal> {
        answered(self.0.state())
    }
}

/// Starts a task in memory.
#[napi]
pub fn simulate(message: String) -> Either<Simulated, Refusal> {
    answered(Simulation::start(&message).map(Simulated))
}

/// The versions of the boundary and of this library, JSON.
#[napi]
pub fn version() -> String {
    Boundary::version()
}

/// Does it on a thread that ends with it: the pools of the runtimes are for what ends soon.
fn promised<'env, T: ToNapiValue + Send + 'static>(
    env: &'env Env,
    work: impl FnOnce() -> Result<T, BoundaryError> + Send + 'static,
) -> napi::Result<Object<'env>> {
    let (deferred, promise) = env.create_deferred()?;
    let waiting = move || {
        let answer = answered(work());
        deferred.resolve(move |_| Ok(answer));
    };
    let thread = thread::Builder::new().name("tasker-wait".to_owned()).spawn(waiting);
    thread.map_err(|error| Error::new(Status::GenericFailure, format!("no thread can be started: {error}")))?;
    Ok(promise)
}

fn answered<T>(answer: Result<T, BoundaryError>) -> Either<T, Refusal> {
    match answer {
        Ok(answer) => Either::A(answer),
        Err(error) => Either::B(Refusal { code: error.code().to_owned(), refused: error.to_string() }),
    }
}
