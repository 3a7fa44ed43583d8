//! Handlers by name, and what belongs to domain events: publishers by name, subscribers by glob.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tasker_shared::events::DomainEvent;

use crate::events::{Publisher, Subscriber};
use crate::handler::{StepContext, StepError, StepHandler, StepOutcome};

/// The handlers that a worker runs, by the name that templates call.
#[derive(Clone, Default)]
pub struct HandlerRegistry {
    handlers: HashMap<String, Arc<dyn StepHandler>>,
    publishers: HashMap<String, Publisher>,
    subscribers: Vec<Subscriber>,
}

impl HandlerRegistry {
    /// A registry without handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler under the name that templates call (`handler.callable`).
    ///
    /// # Panics
    /// Where the name is taken: one of the two handlers would never run.
    pub fn register(&mut self, name: impl Into<String>, handler: impl StepHandler) {
        let name = name.into();
        assert!(!self.handlers.contains_key(&name), "a handler named `{name}` is registered already");
        self.handlers.insert(name, Arc::new(handler));
    }

    /// Registers an async function or closure.
    ///
    /// # Panics
    /// Where the name is taken.
    pub fn register_fn<F, Fut>(&mut self, name: impl Into<String>, handler: F)
    where
        F: Fn(StepContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<StepOutcome, StepError>> + Send + 'static,
    {
        self.register(name, Function(handler));
    }

    /// Registers a payload mapping under the name that templates call (`publishes_events[].publisher`). It is given the
    /// event with its own payload, the step's result or error, and answers the payload to publish instead, or `None` to
    /// publish nothing. It runs with every outcome, so it should be quick.
    ///
    /// ```
    /// # let mut registry = tasker_worker::HandlerRegistry::new();
    /// registry.register_publisher("receipt", |event| {
    ///     let result: serde_json::Value = event.payload().ok()?;
    ///     Some(serde_json::json!({ "amount": result["amount"] }))
    /// });
    /// ```
    ///
    /// # Panics
    /// Where the name is taken: one of the two publishers would never run.
    pub fn register_publisher<F>(&mut self, name: impl Into<String>, publisher: F)
    where
        F: Fn(&DomainEvent) -> Option<Value> + Send + Sync + 'static,
    {
        let name = name.into();
        assert!(!self.publishers.contains_key(&name), "a publisher named `{name}` is registered already");
        self.publishers.insert(name, Arc::new(publisher));
    }

    /// Hears fast and broadcast events of the steps that this worker runs: those whose whole name matches the glob (`*`
    /// stands for any number of characters, `?` for one). Events come one after another, after their attempt was
    /// accepted. A subscriber that falls more than 1024 behind loses what comes then.
    ///
    /// ```
    /// # let mut registry = tasker_worker::HandlerRegistry::new();
    /// registry.subscribe("order.*", async |event| {
    ///     println!("{} after attempt {}: {}", event.name, event.attempt, event.payload);
    /// });
    /// ```
    pub fn subscribe<F, Fut>(&mut self, glob: impl Into<String>, hear: F)
    where
        F: Fn(Arc<DomainEvent>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.subscribers.push(Subscriber::new(glob.into(), hear));
    }

    /// Whether there is a publisher of this name.
    pub(crate) fn has_publisher(&self, name: &str) -> bool {
        self.publishers.contains_key(name)
    }

    pub(crate) fn publishers(&self) -> &HashMap<String, Publisher> {
        &self.publishers
    }

    pub(crate) fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// The handler of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn StepHandler>> {
        self.handlers.get(name)
    }

    /// Every name, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }
}

impl fmt::Debug for HandlerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

struct Function<F>(F);

#[async_trait]
impl<F, Fut> StepHandler for Function<F>
where
    F: Fn(StepContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<StepOutcome, StepError>> + Send + 'static,
{
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        (self.0)(ctx).await
    }
}
