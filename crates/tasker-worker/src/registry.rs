//! Handlers by name.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::handler::{StepContext, StepError, StepHandler, StepOutcome};

/// The handlers that a worker runs, by the name that templates call.
#[derive(Clone, Default)]
pub struct HandlerRegistry {
    handlers: HashMap<String, Arc<dyn StepHandler>>,
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
