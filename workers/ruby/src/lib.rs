//! `TaskerCore::Native`: the functions of the boundary and the client, with Ruby's lock (the GVL) released while they
//! wait.

#![expect(missing_docs, reason = "what the macro of `init` writes has none, and nothing else is public")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{from_mut, from_ref, null_mut};
use std::thread;
use std::time::Duration;

use magnus::rb_sys::protect;
use magnus::{
    Class, DataTypeFunctions, Error, ExceptionClass, Module, Object, RClass, RModule, Ruby, TypedData, function, method,
};
use tasker_client::calls::Calls;
use tasker_worker::boundary::{self, Boundary, BoundaryError, Interrupt};

/// A running worker.
#[derive(Debug, DataTypeFunctions, TypedData)]
#[magnus(class = "TaskerCore::Native::Worker", free_immediately, size)]
struct Worker(Boundary);

impl Worker {
    /// What the worker is, JSON.
    fn about(&self) -> &str {
        self.0.about()
    }

    /// Waits for steps and notices, at most this long. `Timeout`, `Thread#kill` and signals end the wait.
    fn poll(ruby: &Ruby, this: &Self, wait_ms: u64) -> Result<String, Error> {
        let interrupt = Interrupt::default();
        let poll = || this.0.poll_unless(Duration::from_millis(wait_ms), &interrupt);
        waited(ruby, poll, Some(&|| this.0.interrupt(&interrupt)))
    }

    /// Takes outcomes and answers what became of each.
    fn complete(ruby: &Ruby, this: &Self, message: String) -> Result<String, Error> {
        waited(ruby, || this.0.complete(&message), None)
    }

    /// How attempts are.
    fn heartbeat(ruby: &Ruby, this: &Self, message: String) -> Result<String, Error> {
        waited(ruby, || this.0.heartbeat(&message), None)
    }

    /// Stops; without a grace, with the configuration's. Nothing interrupts it.
    fn stop(ruby: &Ruby, this: &Self, grace_ms: Option<u64>) -> Result<(), Error> {
        waited(ruby, || this.0.stop(grace_ms.map(Duration::from_millis)), None)
    }
}

/// A client of one server.
#[derive(Debug, DataTypeFunctions, TypedData)]
#[magnus(class = "TaskerCore::Native::Client", free_immediately, size)]
struct Client(Calls);

impl Client {
    /// Of the server at this address; without one, of the configuration's.
    fn new(ruby: &Ruby, url: Option<String>) -> Result<Self, Error> {
        let url = url.map_or_else(boundary::orchestration_url, Ok).map_err(|refused| raised(ruby, &refused))?;
        Ok(Self(Calls::new(url)))
    }

    /// One operation, JSON, and its answer. Nothing interrupts it.
    fn call(ruby: &Ruby, this: &Self, message: String) -> Result<String, Error> {
        waited(ruby, || Ok(this.0.call(&message)), None)
    }
}

/// A task in memory.
#[derive(Debug, DataTypeFunctions, TypedData)]
#[magnus(class = "TaskerCore::Native::Simulation", free_immediately, size)]
struct Simulation(boundary::Simulation);

impl Simulation {
    /// Starts a task.
    fn new(ruby: &Ruby, message: String) -> Result<Self, Error> {
        boundary::Simulation::start(&message).map(Self).map_err(|refused| raised(ruby, &refused))
    }

    /// The steps that can run now.
    fn next(ruby: &Ruby, this: &Self) -> Result<String, Error> {
        this.0.next().map_err(|refused| raised(ruby, &refused))
    }

    /// Takes outcomes and answers what became of each.
    fn complete(ruby: &Ruby, this: &Self, message: String) -> Result<String, Error> {
        this.0.complete(&message).map_err(|refused| raised(ruby, &refused))
    }

    /// How the task is.
    fn state(ruby: &Ruby, this: &Self) -> Result<String, Error> {
        this.0.state().map_err(|refused| raised(ruby, &refused))
    }
}

/// Starts a worker.
fn start(ruby: &Ruby, message: String) -> Result<Worker, Error> {
    waited(ruby, || Boundary::start(&message), None).map(Worker)
}

/// Calls the boundary without the lock.
fn waited<T>(ruby: &Ruby, work: impl Fn() -> Result<T, BoundaryError>, unblock: Option<&dyn Fn()>) -> Result<T, Error> {
    without_lock(&work, unblock)?.map_err(|refused| raised(ruby, &refused))
}

/// What the boundary refuses, as a `TaskerCore::Errors::WorkerError`.
fn raised(ruby: &Ruby, refused: &BoundaryError) -> Error {
    let made = || -> Result<Error, Error> {
        let errors = ruby.class_object().const_get::<_, RModule>("TaskerCore")?.const_get::<_, RModule>("Errors")?;
        let class: ExceptionClass = errors.const_get("WorkerError")?;
        Ok(class.new_instance((refused.code(), refused.to_string()))?.into())
    };
    made().unwrap_or_else(|error| error)
}

/// Runs `work` while other threads of Ruby may run. `unblock` is called, by any thread, when Ruby wants this one back;
/// without one it has to wait.
///
/// What may have happened to this thread meanwhile (an exception from another one, a kill) is raised by Ruby once it is
/// back in Ruby code, so that an answer is never lost to it; before the work, it is raised from here.
fn without_lock<T>(work: &dyn Fn() -> T, unblock: Option<&dyn Fn()>) -> Result<T, Error> {
    let mut call = Call { work, answer: None };
    let unblock_call: rb_sys::rb_unblock_function_t = unblock.is_some().then_some(unblocked as _);
    loop {
        // SAFETY: this thread has the lock, for it is here through a method that Ruby called. Both pointers live until the
        // call returns, and nothing of Ruby is touched by the work. This form of the call never jumps over our frames.
        unsafe {
            let unblock = from_ref(&unblock).cast_mut().cast::<c_void>();
            rb_sys::rb_thread_call_without_gvl2(Some(worked::<T>), from_mut(&mut call).cast(), unblock_call, unblock);
        }
        match call.answer.take() {
            Some(Ok(answer)) => return Ok(answer),
            // With the lock again it becomes Ruby's `fatal`.
            Some(Err(panic)) => resume_unwind(panic),
            // Something else is waiting for this thread; where that does not end it, the work is still to be done.
            None => {
                // SAFETY: as above; the closure owns nothing that a jump would skip.
                protect(|| unsafe {
                    rb_sys::rb_thread_check_ints();
                    rb_sys::Qnil.into()
                })?;
            }
        }
    }
}

struct Call<'a, T> {
    work: &'a dyn Fn() -> T,
    answer: Option<thread::Result<T>>,
}

/// # Safety
/// `call` is the [`Call`] of [`without_lock`].
unsafe extern "C" fn worked<T>(call: *mut c_void) -> *mut c_void {
    // SAFETY: see above; nobody else has it while the call lasts.
    let call = unsafe { &mut *call.cast::<Call<'_, T>>() };
    call.answer = Some(catch_unwind(AssertUnwindSafe(call.work)));
    null_mut()
}

/// # Safety
/// `unblock` is that of [`without_lock`].
unsafe extern "C" fn unblocked(unblock: *mut c_void) {
    // SAFETY: see above.
    let unblock = unsafe { &*unblock.cast::<Option<&dyn Fn()>>() };
    // A panic has nowhere to go from here.
    let _ = catch_unwind(AssertUnwindSafe(|| unblock.map(|unblock| unblock())));
}

/// Called by Ruby when it has loaded the library.
#[magnus::init(name = "tasker_ruby")]
fn init(ruby: &Ruby) -> Result<(), Error> {
    let native = ruby.define_module("TaskerCore")?.define_module("Native")?;
    native.define_singleton_method("start", function!(start, 1))?;
    native.define_singleton_method("version", function!(Boundary::version, 0))?;
    let worker: RClass = native.define_class("Worker", ruby.class_object())?;
    worker.undef_default_alloc_func();
    worker.define_method("about", method!(Worker::about, 0))?;
    worker.define_method("poll", method!(Worker::poll, 1))?;
    worker.define_method("complete", method!(Worker::complete, 1))?;
    worker.define_method("heartbeat", method!(Worker::heartbeat, 1))?;
    worker.define_method("stop", method!(Worker::stop, 1))?;
    let client: RClass = native.define_class("Client", ruby.class_object())?;
    client.undef_default_alloc_func();
    client.define_singleton_method("new", function!(Client::new, 1))?;
    client.define_method("call", method!(Client::call, 1))?;
    let simulation: RClass = native.define_class("Simulation", ruby.class_object())?;
    simulation.undef_default_alloc_func();
    simulation.define_singleton_method("new", function!(Simulation::new, 1))?;
    simulation.define_method("next", method!(Simulation::next, 0))?;
    simulation.define_method("complete", method!(Simulation::complete, 1))?;
    simulation.define_method("state", method!(Simulation::state, 0))
}
