//! Which code runs a step: methods, resolvers, and steps that nobody here has the code for.

use std::sync::Arc;

use serde_json::json;
use tasker_shared::testing::eventually;
use tasker_worker::{HandlerRegistry, StepContext, StepError, StepHandler, StepOutcome, async_trait};

use crate::bench::Bench;

/// Says what was called, and by whom it was found.
struct Charge(String);

#[async_trait]
impl StepHandler for Charge {
    async fn call(&self, ctx: StepContext) -> Result<StepOutcome, StepError> {
        StepOutcome::success(json!([self.0, ctx.handler_name(), ctx.method_name()]))
    }

    fn methods(&self) -> Vec<&str> {
        vec!["call", "refund"]
    }

    async fn call_method(&self, method: &str, ctx: StepContext) -> Result<StepOutcome, StepError> {
        StepOutcome::success(json!([self.0, ctx.handler_name(), format!("{method} {}", ctx.method_name())]))
    }
}

fn tenants(callable: &str, _method: &str) -> Option<Arc<dyn StepHandler>> {
    let tenant = callable.strip_prefix("tenant:")?;
    Some(Arc::new(Charge(tenant.to_owned())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_the_method_that_its_template_names() {
    let template = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: charge, handler: {callable: pay.Charge, method: call}}
  - {name: refund, handler: {callable: pay.Charge, method: refund}, dependencies: [charge]}
  - {name: check, handler: {callable: pay.Charge, method: check}, dependencies: [refund]}
";
    let handlers = |registry: &mut HandlerRegistry| {
        registry.register("pay.Charge", Charge("registered".to_owned()));
        registry
            .register_method("pay.Charge", "check", async |ctx: StepContext| StepOutcome::success(ctx.method_name()));
    };
    Bench::on_both(template, handlers, async |bench| {
        let task = bench.completes(json!({})).await;
        assert_eq!(bench.result(task, 0).await, json!(["registered", "pay.Charge", "call"]));
        assert_eq!(bench.result(task, 1).await, json!(["registered", "pay.Charge", "refund refund"]));
        assert_eq!(bench.result(task, 2).await, json!("check"));
        announced(bench, &["pay.Charge", "pay.Charge#check", "pay.Charge#refund"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_resolver_finds_its_handlers_looks_into_the_queues_that_call_for_them() {
    let template = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: charge, handler: {callable: 'tenant:acme', resolver: tenants}}
  - {name: refund, handler: {callable: 'tenant:acme', method: refund}, dependencies: [charge]}
";
    let handlers = |registry: &mut HandlerRegistry| registry.register_resolver("tenants", tenants);
    Bench::on_both(template, handlers, async |bench| {
        let task = bench.completes(json!({})).await;
        assert_eq!(bench.result(task, 0).await, json!(["acme", "tenant:acme", "call"]));
        assert_eq!(bench.result(task, 1).await, json!(["acme", "tenant:acme", "refund refund"]));
        announced(bench, &["@tenants", "tenant:acme#refund", "tenant:acme@tenants"]).await;
        // In a namespace and for a name that were not there when the worker started.
        let later = template.replace("acme", "late").replace("name: t\n", "name: later\n");
        bench.register(&later.replace("namespace_name: test", "namespace_name: other")).await;
        bench.register(&later).await;
        let task = bench.create_of("later", json!({})).await;
        bench.rests(task).await;
        assert_eq!(bench.result(task, 1).await, json!(["late", "tenant:late", "refund refund"]));
        let serves = "SELECT count(*) FROM tasker.workers WHERE 'worker_other_queue' = ANY (queues)";
        eventually("the queues of the other namespace", async || bench.count(serves).await == 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_method_or_resolver_is_not_here_waits_and_runs_nothing_else() {
    let template = "
name: t
namespace_name: test
version: 1.0.0
steps:
  - {name: charge, handler: {callable: pay.Charge}}
  - {name: void, handler: {callable: pay.Charge, method: void}}
  - {name: elsewhere, handler: {callable: pay.Charge, resolver: elsewhere}}
";
    let handlers = |registry: &mut HandlerRegistry| {
        registry.register("pay.Charge", Charge("registered".to_owned()));
        registry.register_resolver("tenants", tenants);
    };
    Bench::on_both(template, handlers, async |bench| {
        let task = bench.create(json!({})).await;
        // Each release raises the read count by one, as each claim does.
        let given_back = "SELECT count(*) FROM pgmq.q_worker_test_queue WHERE read_ct >= 4";
        eventually("both are claimed and given back again", async || bench.count(given_back).await == 2).await;
        assert_eq!(bench.letters(task).await, "CQQ");
        assert_eq!(bench.attempts(task).await.len(), 1, "only that of the first");
        announced(bench, &["@tenants", "pay.Charge", "pay.Charge#refund"]).await;
    })
    .await;
}

async fn announced(bench: &Bench, handlers: &[&str]) {
    let said = format!("SELECT count(*) FROM tasker.workers WHERE handlers = '{{{}}}'", handlers.join(","));
    eventually("the worker says what it can run", async || bench.count(&said).await == 1).await;
}
