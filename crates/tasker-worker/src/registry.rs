//! Handlers by name and what finds the others, and what belongs to domain events: publishers by name, subscribers by
//! glob.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use tasker_lifecycle::template::HandlerRef;
use tasker_shared::events::DomainEvent;

use crate::events::{Publisher, Subscriber};
use crate::handler::{StepContext, StepError, StepHandler, StepOutcome};

/// The handlers that a worker runs, by the name that templates call.
///
/// A step's handler is looked for in this order, and the first that has its method runs it: the resolver that the
/// template names, the handler registered under the exact name, the other resolvers in the order in which they were
/// registered. Where nobody has it, or the template names a resolver that is not registered, the step is left for
/// another worker.
#[derive(Clone, Default)]
pub struct HandlerRegistry {
    handlers: HashMap<String, Methods>,
    resolvers: Vec<Arc<Resolver>>,
    publishers: HashMap<String, Publisher>,
    subscribers: Vec<Subscriber>,
}

/// What runs each method of one handler: its `call`, whatever the method is called.
type Methods = BTreeMap<String, Arc<dyn StepHandler>>;

/// A handler for a callable and a method.
type Find = dyn Fn(&str, &str) -> Option<Arc<dyn StepHandler>> + Send + Sync;

/// Finds handlers that are not registered by name.
struct Resolver {
    name: String,
    find: Box<Find>,
    /// Its panics were told of.
    panicked: AtomicBool,
}

/// What a step calls for and this worker does not have.
#[derive(Debug)]
pub(crate) enum Missing<'a> {
    Handler(&'a HandlerRef),
    /// The handler is there and has no such method.
    Method(&'a HandlerRef),
    Resolver(&'a str),
    Publisher(&'a str),
}

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(handler) => write!(f, "the handler `{handler}`, which is not registered here"),
            Self::Method(handler) => {
                let (method, callable) = (handler.method(), &handler.callable);
                write!(f, "the method `{method}`, which the handler `{callable}` does not have here")
            }
            Self::Resolver(name) => write!(f, "the resolver `{name}`, which is not registered here"),
            Self::Publisher(name) => write!(f, "the publisher `{name}`, which is not registered here"),
        }
    }
}

impl HandlerRegistry {
    /// A registry without handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler, with all its methods, under the name that templates call (`handler.callable`).
    ///
    /// # Panics
    /// Where the name is taken, or it has no method: a handler would never run.
    pub fn register(&mut self, name: impl Into<String>, handler: impl StepHandler) {
        let (name, handler): (String, Arc<dyn StepHandler>) = (name.into(), Arc::new(handler));
        let methods: BTreeSet<String> = handler.methods().into_iter().map(str::to_owned).collect();
        assert!(!methods.is_empty(), "the handler `{name}` has no method");
        for method in methods {
            let runs = of_method(Arc::clone(&handler), &method);
            self.add(&name, method, runs);
        }
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

    /// Registers an async function or closure as one method of a handler: templates name it by `handler.method`. The
    /// handler's other methods may be registered in any way.
    ///
    /// ```
    /// # use tasker_worker::{HandlerRegistry, StepContext, StepOutcome};
    /// # let mut registry = HandlerRegistry::new();
    /// registry.register_fn("payments.Charge", async |_: StepContext| StepOutcome::success("charged"));
    /// registry.register_method("payments.Charge", "refund", async |_: StepContext| StepOutcome::success("given back"));
    /// ```
    ///
    /// # Panics
    /// Where the handler has such a method: one of the two would never run.
    pub fn register_method<F, Fut>(&mut self, name: impl Into<String>, method: impl Into<String>, handler: F)
    where
        F: Fn(StepContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<StepOutcome, StepError>> + Send + 'static,
    {
        self.add(&name.into(), method.into(), Arc::new(Function(handler)));
    }

    /// Registers a function that finds handlers by other means than their exact names. It is given the `callable` and the
    /// method that a template calls for (`call` where it names none), and answers a handler that has this method, or
    /// `None` where it knows no such one. It is asked before each attempt and about every handler that registered
    /// templates call for, also by the server in the same process, so it should be quick.
    ///
    /// Templates may name it (`handler.resolver`): it is then asked first, and a worker without it does not run the step.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use tasker_worker::{HandlerRegistry, StepContext, StepError, StepHandler, StepOutcome};
    /// struct Sql(String);
    ///
    /// #[tasker_worker::async_trait]
    /// impl StepHandler for Sql {
    ///     async fn call(&self, _: StepContext) -> Result<StepOutcome, StepError> {
    ///         StepOutcome::success(format!("would run {}.sql", self.0))
    ///     }
    /// }
    ///
    /// # let mut registry = HandlerRegistry::new();
    /// registry.register_resolver("sql", |callable, method| match (callable.strip_prefix("sql:"), method) {
    ///     (Some(file), "call") => Some(Arc::new(Sql(file.to_owned()))),
    ///     _ => None,
    /// });
    /// ```
    ///
    /// # Panics
    /// Where the name is taken.
    pub fn register_resolver<F>(&mut self, name: impl Into<String>, find: F)
    where
        F: Fn(&str, &str) -> Option<Arc<dyn StepHandler>> + Send + Sync + 'static,
    {
        let name = name.into();
        let taken = self.resolvers.iter().any(|resolver| resolver.name == name);
        assert!(!taken, "a resolver named `{name}` is registered already");
        self.resolvers.push(Arc::new(Resolver { name, find: Box::new(find), panicked: AtomicBool::new(false) }));
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
        self.publishers.insert(name, Publisher::Here(Arc::new(publisher)));
    }

    /// A publisher in another language.
    pub(crate) fn register_publisher_beyond(&mut self, name: String) {
        self.publishers.insert(name, Publisher::Beyond);
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

    /// The handler of exactly this name, as far as it has the method `call`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn StepHandler>> {
        self.handlers.get(name)?.get(HandlerRef::CALL)
    }

    /// What runs a step that calls for this; its `call` is the method that is named.
    pub(crate) fn resolve<'a>(&self, wanted: &'a HandlerRef) -> Result<Arc<dyn StepHandler>, Missing<'a>> {
        let named = match wanted.resolver.as_deref() {
            None => None,
            Some(name) => {
                let found = self.resolvers.iter().find(|resolver| resolver.name == name);
                Some(found.ok_or(Missing::Resolver(name))?)
            }
        };
        let (callable, method) = (wanted.callable.as_str(), wanted.method());
        if let Some(found) = named.and_then(|resolver| resolver.ask(callable, method)) {
            return Ok(found);
        }
        let registered = self.handlers.get(callable);
        if let Some(found) = registered.and_then(|methods| methods.get(method)) {
            return Ok(Arc::clone(found));
        }
        let mut others = self.resolvers.iter().filter(|other| named.is_none_or(|named| named.name != other.name));
        others.find_map(|resolver| resolver.ask(callable, method)).ok_or(match registered {
            Some(_) => Missing::Method(wanted),
            None => Missing::Handler(wanted),
        })
    }

    /// What it has, in the words in which workers announce it: `handler`, `handler#method`, `@resolver`.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let of_handler = |(name, methods): (&String, &Methods)| -> Vec<String> {
            let named = |method: &String| {
                let method = Some(method.clone()).filter(|method| method != HandlerRef::CALL);
                HandlerRef { callable: name.clone(), method, resolver: None, initialization: Value::Null }.to_string()
            };
            methods.keys().map(named).collect()
        };
        let resolvers = self.resolvers.iter().map(|resolver| format!("@{}", resolver.name));
        self.handlers.iter().flat_map(of_handler).chain(resolvers).collect()
    }

    /// The names under which all that it can run is called; `None` where a resolver may know others.
    pub(crate) fn callables(&self) -> Option<Vec<String>> {
        self.resolvers.is_empty().then(|| self.handlers.keys().cloned().collect())
    }

    fn add(&mut self, name: &str, method: String, runs: Arc<dyn StepHandler>) {
        let methods = self.handlers.entry(name.to_owned()).or_default();
        let taken = methods.contains_key(&method);
        assert!(!taken, "a handler named `{name}` with the method `{method}` is registered already");
        methods.insert(method, runs);
    }
}

impl Resolver {
    /// What runs the method. One that panics knows nothing: it must not take down the loop that asks.
    fn ask(&self, callable: &str, method: &str) -> Option<Arc<dyn StepHandler>> {
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let found = (self.find)(callable, method)?;
            let has_it = found.methods().contains(&method);
            has_it.then(|| of_method(found, method))
        }));
        asked.unwrap_or_else(|_| {
            if !self.panicked.swap(true, Ordering::Relaxed) {
                tracing::error!(resolver = self.name, callable, "a resolver panicked; it counts as knowing nothing");
            }
            None
        })
    }
}

/// What runs one method of a handler: the handler itself where that is `call`.
fn of_method(handler: Arc<dyn StepHandler>, method: &str) -> Arc<dyn StepHandler> {
    if method == HandlerRef::CALL { handler } else { Arc::new(Method { handler, method: method.to_owned() }) }
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

struct Method {
    handler: Arc<dyn StepHandler>,
    method: String,
}

#[async_trait]
impl StepHandler for Method {
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        self.handler.call_method(&self.method, ctx).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Answers who it is and by which method it was called.
    struct Named(&'static str, &'static [&'static str]);

    #[async_trait]
    impl StepHandler for Named {
        async fn call(&self, _: StepContext) -> Result<StepOutcome, StepError> {
            StepOutcome::success(self.0)
        }

        fn methods(&self) -> Vec<&str> {
            self.1.to_vec()
        }

        async fn call_method(&self, method: &str, _: StepContext) -> Result<StepOutcome, StepError> {
            StepOutcome::success(format!("{}.{method}", self.0))
        }
    }

    fn named(callable: &str, method: Option<&str>, resolver: Option<&str>) -> HandlerRef {
        let own = |name: Option<&str>| name.map(str::to_owned);
        let (method, resolver) = (own(method), own(resolver));
        HandlerRef { callable: callable.to_owned(), method, resolver, initialization: Value::Null }
    }

    /// What the handler that is found answers, or what is missing.
    async fn found(registry: &HandlerRegistry, wanted: &HandlerRef) -> String {
        let attempt = crate::testkit::Attempt::of(
            "{name: t, namespace_name: n, version: 1.0.0, steps: [{name: a, handler: h}]}",
            "a",
        );
        match registry.resolve(wanted) {
            Ok(handler) => crate::testkit::call(&*handler, attempt).await.unwrap().result().get().replace('"', ""),
            Err(missing) => missing.to_string(),
        }
    }

    #[tokio::test]
    async fn a_method_is_called_instead_of_call_and_never_call_instead_of_a_method() {
        let mut registry = HandlerRegistry::new();
        registry.register("charge", Named("charge", &["call", "refund"]));
        registry.register_method("charge", "check", async |_: StepContext| StepOutcome::success("by function"));
        registry.register("only", Named("only", &["refund"]));
        let told = async |callable, method| found(&registry, &named(callable, method, None)).await;
        assert_eq!(told("charge", None).await, "charge");
        assert_eq!(told("charge", Some("refund")).await, "charge.refund");
        assert_eq!(told("charge", Some("check")).await, "by function");
        let missing = "the method `void`, which the handler `charge` does not have here";
        assert_eq!(told("charge", Some("void")).await, missing);
        assert_eq!(told("only", None).await, "the method `call`, which the handler `only` does not have here");
        assert_eq!(told("none", Some("m")).await, "the handler `none#m`, which is not registered here");
        assert_eq!(
            registry.names().into_iter().collect::<Vec<_>>(),
            ["charge", "charge#check", "charge#refund", "only#refund"]
        );
        assert!(registry.get("charge").is_some() && registry.get("only").is_none());
    }

    #[tokio::test]
    async fn a_named_resolver_comes_first_then_the_exact_name_then_the_other_resolvers_in_their_order() {
        let mut registry = HandlerRegistry::new();
        registry.register("charge", Named("exact", &["call"]));
        let resolver = |says: &'static str, knows: &'static [&'static str]| {
            move |callable: &str, _: &str| -> Option<Arc<dyn StepHandler>> {
                knows.contains(&callable).then(|| Arc::new(Named(says, &["call", "refund"])) as Arc<dyn StepHandler>)
            }
        };
        registry.register_resolver("first", resolver("first", &["other", "charge"]));
        registry.register_resolver("second", resolver("second", &["charge", "other", "third"]));
        registry.register_resolver("broken", |_, _| panic!("this resolver is broken"));
        let told = async |wanted: HandlerRef| found(&registry, &wanted).await;
        assert_eq!(told(named("charge", None, Some("second"))).await, "second");
        assert_eq!(told(named("charge", None, None)).await, "exact");
        assert_eq!(
            told(named("charge", Some("refund"), None)).await,
            "first.refund",
            "the exact one has no such method"
        );
        assert_eq!(told(named("other", None, None)).await, "first");
        assert_eq!(told(named("third", None, None)).await, "second");
        assert_eq!(told(named("third", None, Some("first"))).await, "second", "the chain goes on after the named one");
        assert_eq!(told(named("third", None, Some("broken"))).await, "second");
        let none = "the resolver `none`, which is not registered here";
        assert_eq!(told(named("charge", None, Some("none"))).await, none);
        let void = told(named("charge", Some("void"), None)).await;
        assert_eq!(void, "the method `void`, which the handler `charge` does not have here");
        assert_eq!(told(named("fourth", None, None)).await, "the handler `fourth`, which is not registered here");
        let names = ["@broken", "@first", "@second", "charge"];
        assert_eq!(registry.names().into_iter().collect::<Vec<_>>(), names);
    }

    #[test]
    #[should_panic(expected = "a handler named `charge` with the method `refund` is registered already")]
    fn a_method_is_registered_once() {
        let mut registry = HandlerRegistry::new();
        registry.register_method("charge", "refund", async |_: StepContext| StepOutcome::success(1));
        registry.register("charge", Named("charge", &["call", "refund"]));
    }
}
