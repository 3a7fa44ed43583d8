#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::ids::StepIndex;

const ORDER: &str = "\
name: order_fulfillment
namespace_name: shop
version: 1.0.0
description: from an order to a parcel
metadata: {author: sales, tags: [a, b], created_at: 2025-01-02}
input_schema: {type: object, properties: {pattern: {type: string, pattern: '^[a-z]+(-[a-z]+)*$'}}}
identity_strategy: strict
steps:
  - name: reserve
    handler: stock.Reserve
  - name: charge
    description: takes the money
    handler: {callable: payments.Charge, method: call, initialization: {currency: EUR, limit: 1.5}}
    pool: py
    depends_on: [reserve]
    retry: {max_attempts: 4, backoff: fibonacci, backoff_base_ms: 200, max_backoff_ms: 5000}
    timeout_seconds: 0.25
    result_schema: {type: object}
  - name: ship
    dependencies: [reserve, charge]
    handler: {callable: parcels.Ship}
environments:
  test:
    steps:
      - {name: charge, timeout_seconds: 5, retry: {max_attempts: 2}, handler: {initialization: {limit: 9}}}
      - {name: ALL, timeout_seconds: 7, retry: {backoff_base_ms: 1}, handler: {initialization: {dry: true}}}
  production:
    steps: [{name: reserve, handler: stock.ReserveForReal}]
";

/// A document with the given steps (indented by two) after the four lines of its head.
fn with_steps(steps: &str) -> String {
    format!("name: t\nnamespace_name: n\nversion: 1.0.0\nsteps:\n{steps}")
}

/// A document whose one step has the given further keys, on line 7.
fn with_key(line: &str) -> String {
    with_steps(&format!("  - name: a\n    handler: h\n    {line}\n"))
}

fn read(yaml: &str) -> Template {
    parse(yaml, None).unwrap_or_else(|problems| panic!("{problems:#?}")).0
}

fn problems(yaml: &str) -> Vec<Problem> {
    parse(yaml, None).expect_err(yaml)
}

/// Checks that `yaml` has exactly one problem, of this code, place, line and remedy.
#[track_caller]
fn refused(yaml: &str, code: &str, path: &str, line: u32, remedy: &str) {
    let problems = problems(yaml);
    let [problem] = problems.as_slice() else { panic!("{yaml}\n{problems:#?}") };
    assert_eq!((problem.code, problem.path.as_str(), problem.line), (code, path, Some(line)), "{yaml}\n{problem}");
    assert!(problem.remedy.contains(remedy), "{problem}");
}

#[test]
fn what_is_written_is_read_and_the_rest_has_defaults() {
    let template = read(ORDER);
    assert_eq!(
        (template.namespace.as_str(), template.name.as_str(), template.version.to_string().as_str()),
        ("shop", "order_fulfillment", "1.0.0")
    );
    assert_eq!(template.identity_strategy, IdentityStrategy::Strict);
    assert_eq!(template.step_by_name("ship"), Some(StepIndex(2)));
    assert_eq!(template.step_by_name("shi"), None);
    assert_eq!(template.dag.parents(StepIndex(2)), [StepIndex(0), StepIndex(1)]);
    let [reserve, charge, _] = template.steps.as_slice() else { panic!("three steps") };
    assert_eq!(reserve.retry, RetryPolicy::default());
    assert_eq!((reserve.timeout_ms, reserve.pool.as_str(), reserve.kind), (30_000, "default", StepKind::Standard));
    assert_eq!(reserve.handler.initialization, json!({}));
    let retry =
        RetryPolicy { retryable: true, max_attempts: 4, backoff: Backoff::Fibonacci, base_ms: 200, max_ms: 5000 };
    assert_eq!((charge.retry, charge.timeout_ms, charge.pool.as_str()), (retry, 250, "py"));
    assert_eq!((charge.handler.callable.as_str(), &charge.handler.method), ("payments.Charge", &None));
    assert_eq!(charge.handler.initialization, json!({"currency": "EUR", "limit": 1.5}));
}

#[test]
fn an_environment_overrides_all_steps_first_and_then_single_ones() {
    let (test, _) = parse(ORDER, Some("test")).unwrap();
    let [reserve, charge, _] = test.steps.as_slice() else { panic!("three steps") };
    assert_eq!((reserve.timeout_ms, reserve.retry.base_ms, reserve.retry.max_attempts), (7000, 1, 3));
    assert_eq!(reserve.handler.callable, "stock.Reserve");
    assert_eq!(reserve.handler.initialization, json!({"dry": true}));
    assert_eq!((charge.timeout_ms, charge.retry.base_ms, charge.retry.max_attempts), (5000, 1, 2));
    assert_eq!(charge.handler.initialization, json!({"currency": "EUR", "limit": 9, "dry": true}));
    let (production, _) = parse(ORDER, Some("production")).unwrap();
    assert_eq!(production.steps[0].handler.callable, "stock.ReserveForReal");
    assert_eq!(parse(ORDER, Some("staging")).unwrap().0, read(ORDER));
    let hashes: BTreeSet<_> = [test.hash, production.hash, read(ORDER).hash].into();
    assert_eq!(hashes.len(), 3);
}

#[test]
fn a_faulty_environment_is_refused_in_every_environment() {
    let yaml = |over: &str| format!("{}environments:\n  test:\n    steps:\n      - {over}\n", with_key("pool: p"));
    let at = "environments.test.steps[0]";
    for environment in [None, Some("test"), Some("other")] {
        for (over, code, key, remedy) in [
            ("{name: a, timeout_second: 1}", "unknown_key", ".timeout_second", "`timeout_seconds`"),
            ("{name: a, dependencies: []}", "unknown_key", ".dependencies", "use one of"),
            ("{name: b}", "unknown_step", ".name", "`a`"),
            ("{pool: p}", "missing_key", ".name", "add it"),
            ("{name: a, retry: {max_attempts: 101}}", "out_of_range", ".retry.max_attempts", "range"),
            ("5", "wrong_type", "", "mapping"),
        ] {
            let problems = parse(&yaml(over), environment).expect_err(over);
            assert_eq!(problems.len(), 1, "{problems:#?}");
            assert_eq!((problems[0].code, &problems[0].path), (code, &format!("{at}{key}")), "{over}");
            assert_eq!(problems[0].line, Some(11), "{over}");
            assert!(problems[0].remedy.contains(remedy), "{}", problems[0]);
        }
    }
    let twice = yaml("{name: a, pool: x}\n      - {name: a, pool: y}");
    refused(&twice, "duplicate_name", "environments.test.steps[1].name", 12, "merge");
}

#[test]
fn keys_are_refused_with_place_and_remedy() {
    for (line, code, path, remedy) in [
        ("timeout_secs: 3", "unknown_key", "timeout_secs", "`timeout_seconds`"),
        ("timeout_seconds: 0", "out_of_range", "timeout_seconds", "range"),
        ("timeout_seconds: 604801", "out_of_range", "timeout_seconds", "range"),
        ("timeout_seconds: '3'", "wrong_type", "timeout_seconds", "number"),
        ("retry: {max_attempts: 101}", "out_of_range", "retry.max_attempts", "range"),
        ("retry: {max_attempts: -1}", "out_of_range", "retry.max_attempts", "range"),
        ("retry: {max_attempts: 1.5}", "out_of_range", "retry.max_attempts", "range"),
        ("retry: {max_backoff_ms: 2592000001}", "out_of_range", "retry.max_backoff_ms", "range"),
        ("retry: {backoff_base_ms: 9, max_backoff_ms: 8}", "out_of_range", "retry.backoff_base_ms", "max_backoff_ms"),
        ("retry: {backoff: exponental}", "unknown_value", "retry.backoff", "`exponential`"),
        ("retry: {retryable: yes}", "ambiguous_scalar", "retry.retryable", "true"),
        ("retry: {retryable: 'true'}", "wrong_type", "retry.retryable", "boolean"),
        ("retry: 3", "wrong_type", "retry", "mapping"),
        ("type: decison", "unknown_value", "type", "`decision`"),
        ("type: decision", "decision_without_dependants", "type", "standard"),
        ("type: batchable", "batchable_without_worker", "type", "batch_worker"),
        ("batch_config: {batch_size: 5}", "misplaced_batch_config", "batch_config", "batchable"),
        ("pool: Python", "bad_pool", "pool", "rename"),
        ("pool: abcdefghijklm", "bad_pool", "pool", "rename"),
        ("pool: 5", "wrong_type", "pool", "quote it: \"5\""),
        ("description: no", "ambiguous_scalar", "description", "\"no\""),
        ("description: 0o17", "ambiguous_scalar", "description", "\"0o17\""),
        ("description: 017", "ambiguous_scalar", "description", "\"017\""),
        ("description: 1_000", "ambiguous_scalar", "description", "\"1_000\""),
        ("description: 12:30", "ambiguous_scalar", "description", "\"12:30\""),
        ("description: 1.0", "wrong_type", "description", "quote it: \"1.0\""),
        ("description: .nan", "number", "description", "\".nan\""),
        ("description: 1e400", "number", "description", "\"1e400\""),
        ("description: 123456789012345678901", "number", "description", "quote"),
        ("description: \"a\\0b\"", "nul", "description", "remove"),
        ("description: !secret x", "tag", "description", "remove"),
        ("description: [x]", "wrong_type", "description", "write a string"),
        ("depends_on: [b]", "unknown_dependency", "depends_on[0]", "`a`"),
        ("dependencies: [a]", "cycle", "dependencies", "remove one"),
        ("depends_on: [a]", "cycle", "depends_on", "remove one"),
        ("dependencies: a", "wrong_type", "dependencies", "list"),
        ("uses: [db, db]", "duplicate_item", "uses[1]", "keep one"),
        ("uses: [db, -x]", "bad_resource", "uses[1]", "rename it"),
        ("uses: [a, b, c, d, e, f, g, h, i]", "too_many", "uses", "fail or fill up"),
        ("name: b", "duplicate_key", "name", "keep one"),
        ("publishes_events: [{condition: always}]", "missing_key", "publishes_events[0].name", "add"),
        ("result_schema: true", "wrong_type", "result_schema", "mapping"),
        ("result_schema: {items: {$ref: 'http://x/y'}}", "schema_remote_ref", "result_schema.items.$ref", "$defs"),
        (
            "result_schema: {properties: {p: {pattern: '(a+)+'}}}",
            "schema_pattern",
            "result_schema.properties.p.pattern",
            "(a+)+",
        ),
        (
            "result_schema: {patternProperties: {'(a*)*': {}}}",
            "schema_pattern",
            "result_schema.patternProperties.(a*)*",
            "(a+)+",
        ),
        ("? [a]\n    : b", "complex_key", "", "string"),
        ("<<: 5", "wrong_type", "", "anchor"),
    ] {
        let prefix = if path.is_empty() { "steps[0]" } else { "steps[0]." };
        let yaml = with_key(line);
        refused(&yaml, code, &format!("{prefix}{path}"), 7, remedy);
    }
}

#[test]
fn steps_and_documents_are_refused_with_place_and_remedy() {
    let step = |text: &str| with_steps(&format!("  - {text}\n"));
    let ok = with_key("pool: p");
    let head = |from: &str, to: &str| ok.replace(from, to);
    let deep = with_key(&format!("result_schema: {}1{}", "{a: ".repeat(70), "}".repeat(70)));
    let deep = problems(&deep);
    assert_eq!((deep[0].code, deep[0].line), ("too_deep", Some(7)));
    for (yaml, code, path, line, remedy) in [
        (step("handler: h"), "missing_key", "steps[0].name", 5, "add it"),
        (step("name: a"), "missing_key", "steps[0].handler", 5, "add it"),
        (step("{name: a, handler: {method: x}}"), "missing_key", "steps[0].handler.callable", 5, "add it"),
        (step("{name: ALL, handler: h}"), "bad_name", "steps[0].name", 5, "rename"),
        (step("{name: a b, handler: h}"), "bad_name", "steps[0].name", 5, "another"),
        (step("{name: a/b, handler: h}"), "bad_name", "steps[0].name", 5, "letters"),
        (step("{name: '', handler: h}"), "bad_name", "steps[0].name", 5, "another"),
        (step("{name: true, handler: h}"), "wrong_type", "steps[0].name", 5, "\"true\""),
        (step("{name: 5, handler: h}"), "wrong_type", "steps[0].name", 5, "\"5\""),
        (step("a"), "wrong_type", "steps[0]", 5, "mapping"),
        (step("{name: a, handler: h}\n  - {name: a, handler: h}"), "duplicate_name", "steps[1].name", 6, "rename"),
        (
            step("{name: a, handler: h, dependencies: [b]}\n  - {name: b, handler: h, dependencies: [a]}"),
            "cycle",
            "steps[0].dependencies",
            5,
            "remove one",
        ),
        (with_steps("  []\n"), "no_steps", "steps", 5, "at least one"),
        ("name: t\nnamespace_name: n\nversion: 1.0.0\n".into(), "missing_key", "steps", 1, "add it"),
        (head("name: t\n", "name: 5\n"), "wrong_type", "name", 1, "\"5\""),
        (head("name: t\n", "title: t\nname: t\n"), "unknown_key", "title", 1, "use one of"),
        (head("namespace_name: n\n", "namespace_name: N\n"), "bad_namespace", "namespace_name", 2, "rename"),
        (head("namespace_name: n\n", "namespace_name: worker_x\n"), "bad_namespace", "namespace_name", 2, "rename"),
        (head("namespace_name: n\n", "namespace_name: w_x\n"), "bad_namespace", "namespace_name", 2, "rename"),
        (
            head("namespace_name: n\n", "namespace_name: abcdefghijklmnopqrstuvwxyzabcd\n"),
            "bad_namespace",
            "namespace_name",
            2,
            "rename",
        ),
        (head("version: 1.0.0", "version: 1.0"), "wrong_type", "version", 3, "quote"),
        (head("version: 1.0.0", "version: '1.0'"), "bad_version", "version", 3, "major.minor.patch"),
        (head("steps:", "identity_strategy: strickt\nsteps:"), "unknown_value", "identity_strategy", 4, "`strict`"),
        (
            head("steps:", "lifecycle: {max_duration_minutes: 0}\nsteps:"),
            "out_of_range",
            "lifecycle.max_duration_minutes",
            4,
            "range",
        ),
        (head("steps:", "metadata: [a]\nsteps:"), "wrong_type", "metadata", 4, "mapping"),
        (format!("{ok}---\n{ok}"), "multiple_documents", "steps", 8, "one template"),
        ("a b".into(), "wrong_type", "", 1, "mapping"),
        ("a: [b\nc: d".into(), "syntax", "", 2, "YAML"),
        ("a: *b".into(), "syntax", "", 1, "YAML"),
        ("a: &x [*x]".into(), "alias_cycle", "a[0]", 1, "write"),
    ] {
        let path = if code == "multiple_documents" { "" } else { path };
        refused(&yaml, code, path, line, remedy);
    }
}

#[test]
fn a_cycle_names_its_steps_in_order() {
    let yaml = with_steps(
        "  - {name: a, handler: h}\n  - {name: b, handler: h, depends_on: [a, d]}\n  \
         - {name: c, handler: h, depends_on: [b]}\n  - {name: d, handler: h, depends_on: [c]}\n",
    );
    assert_eq!(problems(&yaml)[0].message, "steps wait for each other: b → d → c → b");
}

#[test]
fn all_problems_come_at_once_up_to_a_hundred() {
    let yaml = "nam: t\nnamespace_name: N\nversion: x\nsteps:\n  - {name: a, dependencies: [b], pool: P}\n  - 7\n";
    let codes: BTreeSet<_> = problems(yaml).into_iter().map(|problem| (problem.code, problem.line)).collect();
    let expected = [
        ("unknown_key", Some(1)),
        ("missing_key", Some(1)),
        ("bad_namespace", Some(2)),
        ("bad_version", Some(3)),
        ("missing_key", Some(5)),
        ("unknown_dependency", Some(5)),
        ("bad_pool", Some(5)),
        ("wrong_type", Some(6)),
    ];
    assert_eq!(codes, expected.into());
    assert_eq!(problems(&with_steps(&"  - 7\n".repeat(1000))).len(), 100);
}

#[test]
fn a_problem_is_shown_on_one_line() {
    assert_eq!(
        problems(&with_key("pool: 5"))[0].to_string(),
        "line 7: steps[0].pool: expected a string, found a number [wrong_type]; quote it: \"5\""
    );
}

#[test]
fn old_spellings_are_understood() {
    let yaml = with_steps(
        "  - {name: a, handler: h, type: decision_point, retry: {max_attempts: 0}}\n  \
         - {name: b, handler: h, type: deferred, depends_on: [a]}\n",
    );
    let (template, warnings) = parse(&format!("task_handler: x\n{yaml}"), None).unwrap();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert_eq!((warning.path.as_str(), warning.line), ("task_handler", Some(1)));
    assert_eq!(template.steps[0].kind, StepKind::Decision);
    assert_eq!(template.steps[0].retry.max_attempts, 1);
    assert_eq!(template.steps[1].kind, StepKind::DeferredConvergence);
    let both = with_key("dependencies: []\n    depends_on: []");
    refused(&both, "duplicate_key", "steps[0].depends_on", 8, "keep one");
}

#[test]
fn every_key_of_a_step_together_reads_back_as_it_was() {
    let yaml = "name: t\nnamespace_name: n\nversion: 1.0.0\nlifecycle: {max_duration_minutes: 5}\n\
        domain_events: [{name: e, schema: {}}]\nsteps:\n\
        - {name: a, handler: {callable: h, method: m, resolver: r}, type: batchable, uses: [db], \
           batch_config: {worker_template: w, parallelism: 3}, publishes_events: [{name: e}]}\n\
        - {name: w, handler: h, type: batch_worker, dependencies: [a]}\n";
    assert_round_trip(&read(yaml));
}

#[test]
fn a_handler_is_named_with_its_method_and_its_resolver() {
    let named = |handler: &str| {
        let yaml = format!("name: t\nnamespace_name: n\nversion: 1.0.0\nsteps:\n- {{name: a, handler: {handler}}}\n");
        let handler = read(&yaml).steps[0].handler.clone();
        format!("{handler} {}", handler.method())
    };
    assert_eq!(named("pay.Charge"), "pay.Charge call");
    assert_eq!(named("{callable: pay.Charge, method: call, resolver: null}"), "pay.Charge call");
    assert_eq!(named("{callable: pay.Charge, method: refund}"), "pay.Charge#refund refund");
    assert_eq!(named("{callable: pay.Charge, method: refund, resolver: tenants}"), "pay.Charge#refund@tenants refund");
    let empty = with_key("description: d").replace("handler: h", "handler: {callable: h, method: \"\"}");
    refused(&empty, "bad_name", "steps[0].handler.method", 6, "another name");
}

#[track_caller]
fn assert_round_trip(template: &Template) {
    let stored = template.to_json().to_string();
    let (again, warnings) = from_json(&serde_json::from_str(&stored).unwrap(), None).unwrap();
    assert_eq!(&again, template);
    assert!(warnings.is_empty());
}

#[test]
fn the_canonical_content_reads_back_as_the_same_template() {
    for environment in [None, Some("test"), Some("production")] {
        assert_round_trip(&parse(ORDER, environment).unwrap().0);
    }
    let numbers = with_key("result_schema: {const: [1e16, -1e18, 1e20, 1e-7, -0.0, 0.1, 3.0, 1.7976931348623157e308]}");
    assert_round_trip(&read(&numbers));
}

#[test]
fn the_hash_is_of_the_content_and_not_of_its_spelling() {
    let block = "name: t\nnamespace_name: n\nversion: 1.0.0\nsteps:\n- name: a\n  handler: h\n  timeout_seconds: 30\n";
    let flow = "{steps: [{timeout_seconds: 30.0, handler: {initialization: {}, callable: h},   name: 'a'}],\n\
        version: \"1.0.0\", namespace_name: n, name: t}";
    let json = json!({"name": "t", "namespace_name": "n", "version": "1.0.0", "description": null,
        "steps": [{"name": "a", "handler": "h", "dependencies": []}]});
    let hash = read(block).hash;
    assert_eq!(read(flow).hash, hash);
    assert_eq!(read(&json.to_string()).hash, hash);
    assert_eq!(from_json(&json, None).unwrap().0.hash, hash);
    // A changed hash would orphan every registered template.
    assert_eq!(hash.to_string(), "37698cdc44ba884ef928f3508d6a78329c9a3395c06d7a1c2e6fa8a446406e69");
    assert_eq!(hash.to_string().parse(), Ok(hash));
    assert_ne!(read(&block.replace("30", "31")).hash, hash);
}

#[test]
fn aliases_and_merges_copy_within_a_limit() {
    let yaml = with_steps(
        "  - &a {name: a, handler: h, pool: p, retry: &r {max_attempts: 5}}\n  \
         - {<<: *a, name: b, depends_on: [a], retry: {<<: [*r, {max_attempts: 9, backoff: none}]}}\n",
    );
    let template = read(&yaml);
    assert_eq!((template.steps[1].name.as_str(), template.steps[1].pool.as_str()), ("b", "p"));
    assert_eq!((template.steps[1].retry.max_attempts, template.steps[1].retry.backoff), (5, Backoff::None));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let item = format!("*a{}, ", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", item.repeat(10)));
    }
    let started = Instant::now();
    let refused_as = |yaml: &str| problems(yaml)[0].code;
    assert_eq!(refused_as(&bomb), "alias_expansion");
    let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(10_000));
    assert_eq!(refused_as(&large), "alias_expansion");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_override_of_all_steps_can_not_multiply_without_limit() {
    let steps: String = (0..2000).map(|i| format!("  - {{name: s{i}, handler: h}}\n")).collect();
    let blob = "x".repeat(100_000);
    let env = format!("environments: {{e: {{steps: [{{name: ALL, handler: {{initialization: {{a: {blob}}}}}}}]}}}}\n");
    let yaml = with_steps(&steps) + &env;
    assert_eq!(parse(&yaml, Some("e")).unwrap_err()[0].code, "too_large");
    assert!(parse(&yaml, None).is_ok());
}

#[test]
fn sizes_are_limited() {
    let long = format!("{}# {}", with_key("pool: p"), "x".repeat(1 << 20));
    assert_eq!(problems(&long)[0].code, "too_large");
    let document = |count: usize| {
        let steps: Vec<_> = (0..count)
            .map(|at| match at {
                0 => json!({"name": "s0", "handler": "h"}),
                _ => json!({"name": format!("s{at}"), "handler": "h", "dependencies": [format!("s{}", at - 1)]}),
            })
            .collect();
        json!({"name": "t", "namespace_name": "n", "version": "1.0.0", "steps": steps})
    };
    let started = Instant::now();
    let (template, _) = from_json(&document(100_000), None).unwrap();
    assert_eq!(template.dag.len(), 100_000);
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    assert_eq!(from_json(&document(100_001), None).unwrap_err()[0].code, "too_many_steps");
}

#[test]
fn names_keep_their_rules_through_serde() {
    assert!(serde_json::from_str::<Namespace>("\"shop\"").is_ok());
    assert!(serde_json::from_str::<Namespace>("\"w_shop\"").is_err());
    assert!(serde_json::from_str::<Pool>("\"a_b\"").is_err());
    assert!("+1".repeat(32).parse::<TemplateHash>().is_err());
}

/// Scraps of YAML that get past the scanner more often than random characters do.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop::sample::select(vec![
        "name: a\n",
        "steps:\n",
        "  - ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "&a ",
        "*a ",
        "<<: ",
        "!!str ",
        "? ",
        "handler: h\n",
        "environments:\n",
        "  test:\n",
        "    ",
        "0x",
        "_",
        ":",
        "1",
        "'",
        "\"",
        "|\n",
        "---\n",
        "ALL",
        "dependencies: [a]\n",
        "\0",
        "é",
        "~",
        "version: 1.0.0\n",
        "namespace_name: n\n",
        "#",
        "\t",
        "\n",
    ]);
    prop::collection::vec(scrap, 0..40).prop_map(|scraps| scraps.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![any::<String>(), scraps(), "\\PC*"]) {
        match parse(&text, Some("test")) {
            Ok((template, _)) => assert_round_trip(&template),
            Err(problems) => prop_assert!((1..=100).contains(&problems.len())),
        }
    }

    #[test]
    fn a_damaged_template_is_read_or_refused(at in 0..ORDER.len(), scrap in scraps()) {
        let text = format!("{}{scrap}{}", &ORDER[..at], &ORDER[at..]);
        match parse(&text, Some("test")) {
            Ok((template, _)) => assert_round_trip(&template),
            Err(problems) => prop_assert!((1..=100).contains(&problems.len())),
        }
    }
}
