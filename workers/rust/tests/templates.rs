//! The templates and the demonstrations fit each other.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tasker_examples::{data_files, demos, templates};

fn parsed() -> BTreeMap<String, Value> {
    templates().iter().map(|(name, yaml)| ((*name).to_owned(), serde_saphyr::from_str(yaml).unwrap())).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_step_waits_for_the_steps_whose_results_it_reads() {
    for (name, template) in parsed() {
        assert_eq!(template["name"], name.as_str());
        let mut ancestors: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for step in template["steps"].as_array().unwrap() {
            let mut seen = BTreeSet::new();
            for parent in texts(&step["dependencies"]) {
                let above = ancestors.get(parent);
                seen.extend(above.unwrap_or_else(|| panic!("{name}: `{parent}` is not declared above")));
                seen.insert(parent);
            }
            let settings = &step["handler"]["initialization"];
            for read in [&settings["of"], &settings["lanes"]].into_iter().flat_map(texts) {
                assert!(seen.contains(read), "{name}: {} reads `{read}`", step["name"]);
            }
            let step = step["name"].as_str().unwrap();
            assert!(ancestors.insert(step, seen).is_none(), "{name}: `{step}` comes twice");
        }
    }
}

#[test]
fn every_template_has_one_demonstration_that_ends_at_its_last_step() {
    let templates = parsed();
    let demos = demos("/data");
    let shown: Vec<&str> = demos.iter().map(|demo| demo.template).collect();
    assert_eq!(BTreeSet::from_iter(shown.iter().copied()), templates.keys().map(String::as_str).collect());
    assert_eq!(shown.len(), templates.len(), "none twice");
    for demo in &demos {
        let template = &templates[demo.template];
        assert_eq!(template["namespace_name"], demo.namespace);
        assert_eq!(template["version"], demo.version);
        let steps = template["steps"].as_array().unwrap();
        let waited_for: BTreeSet<&str> = steps.iter().flat_map(|step| texts(&step["dependencies"])).collect();
        let names = steps.iter().map(|step| step["name"].as_str().unwrap());
        let ends: Vec<&str> = names.filter(|name| !waited_for.contains(name)).collect();
        assert_eq!(ends, [demo.final_step], "{}", demo.template);
        let required = texts(&template["input_schema"]["required"]);
        assert!(required.iter().all(|key| demo.context.get(key).is_some()), "{}", demo.template);
    }
}

#[test]
fn the_demonstrations_name_files_that_are_shipped() {
    let shipped: BTreeSet<String> = data_files().iter().map(|(name, _)| format!("/data/{name}")).collect();
    let demos = demos("/data/");
    let context = |demo: &'_ tasker_examples::Demo| demo.context.as_object().unwrap().clone().into_iter();
    let files = demos.iter().flat_map(context).filter(|(key, _)| key.ends_with("_file"));
    let named: Vec<Value> = files.map(|(_, file)| file).collect();
    let named = named.iter().filter_map(Value::as_str);
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), shipped);
}

#[test]
fn a_wrong_result_is_told_with_what_was_expected() {
    for demo in demos("/data") {
        let mismatch = (demo.expect)(&serde_json::json!({"value": -1})).unwrap_err();
        assert!(!mismatch.expected.is_null() && mismatch.found != mismatch.expected, "{mismatch}");
    }
}
