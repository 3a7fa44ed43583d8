//! What single values can't tell: pairs that contradict each other, and values too dangerous to start with.

use std::net::SocketAddr;

use serde_json::Value;

use super::Environment;
use super::error::Error;
use super::secret::parse_database_url;
use super::value::Values;

struct Pair {
    left: &'static str,
    /// `left` must be at least this many times …
    least: u64,
    /// … `right`, …
    right: &'static str,
    /// … because else this happens.
    why: &'static str,
}

const fn pair(left: &'static str, least: u64, right: &'static str, why: &'static str) -> Pair {
    Pair { left, least, right, why }
}

const BATCH: &str = "a batch is taken from the inbox and can't be larger";

static PAIRS: &[Pair] = &[
    pair("queue.lease_ms", 2, "worker.heartbeat_ms", "one late heartbeat would lose every claim"),
    pair("queue.max_lease_ms", 1, "queue.lease_ms", "every claim would count as expired"),
    pair("queue.poll_max_ms", 1, "queue.poll_min_ms", "the pause between polls grows from the one to the other"),
    pair("actor.inbox", 1, "actor.batch_max", BATCH),
    pair("actor.request_inbox", 1, "actor.request_batch_max", BATCH),
    pair("worker.report_inbox", 1, "worker.report_batch_max", BATCH),
    pair("database.max_connections", 2, "actor.lanes", "the lanes would leave too few connections for requests"),
    pair("web.body_bytes", 1, "limits.payload_bytes", "a payload as large as allowed could not be posted"),
    pair("web.request_timeout_ms", 1, "web.header_timeout_ms", "reading the headers is part of the request"),
];

/// Pairs that contradict each other. A pair with an invalid side is passed over: that error is known already.
pub(super) fn inconsistent(values: &Values) -> Vec<Error> {
    let integer = |name| values.get(name).and_then(Value::as_u64);
    let broken = PAIRS.iter().filter_map(|&Pair { left, least, right, why }| {
        let (have, need) = (integer(left)?, integer(right)?);
        let times = if least == 1 { String::new() } else { format!("{least} × ") };
        let (at, right_at) = (values.source(left), values.source(right));
        let what = format!("`{left}` = {have} must be at least {times}`{right}` = {need} ({right_at}), else {why}");
        (have < need.saturating_mul(least)).then(|| Error::new(at, what))
    });
    broken.collect()
}

/// Values that are refused although they are well-formed.
pub(super) fn dangerous(values: &Values, environment: Environment) -> Vec<Error> {
    let text = |name| values.get(name).and_then(Value::as_str);
    let mut errors = Vec::new();
    let address = text("web.bind_address").and_then(|text| text.parse::<SocketAddr>().ok());
    let allowed = values.get("web.allow_unauthenticated_public").and_then(Value::as_bool);
    if let (Some(address), Some(false)) = (address.filter(|a| !a.ip().is_loopback()), allowed) {
        let what = format!(
            "`web.bind_address` = {address} can be reached from other machines, and the API has no \
             authentication: bind to 127.0.0.1 or say `web.allow_unauthenticated_public = true`"
        );
        errors.push(Error::new(values.source("web.bind_address"), what));
    }
    for name in ["database.url", "database.pgmq_url"] {
        let parts = text(name).and_then(parse_database_url);
        let options = parts.as_ref().and_then(|parts| parts.get_options()).unwrap_or_default();
        if environment == Environment::Production && switches_durability_off(options) {
            let what = format!(
                "`{name}` (or PGOPTIONS) sets synchronous_commit = off; in production no answer may outrun the disk"
            );
            errors.push(Error::new(values.source(name), what));
        }
    }
    errors
}

/// Whether start-up options (`-c name=value`, `--name=value`) make commits asynchronous: the only way in which
/// this configuration could lose accepted work.
fn switches_durability_off(options: &str) -> bool {
    let options = options.to_lowercase().replace('-', "_");
    options.split("synchronous_commit").skip(1).any(|rest| {
        let value = rest.trim_start_matches(|c: char| c.is_whitespace() || "='\\".contains(c));
        let word = value.split(|c: char| !c.is_ascii_alphanumeric()).next();
        matches!(word, Some("off" | "false" | "no" | "0"))
    })
}
