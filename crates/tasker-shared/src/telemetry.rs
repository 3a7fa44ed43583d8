//! Log lines and metrics: what a process tells about itself.
//!
//! Deliberately absent: a global registry. Who counts holds a [`Metrics`], so tests see their own numbers only.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Telemetry};

/// Starts writing log lines to stderr; stdout belongs to what a command prints. Says whether this call did it:
/// a process has one subscriber, and a later call, or one in a host that brought its own, changes nothing.
pub fn init(telemetry: &Telemetry) -> bool {
    // The configuration has checked the filter, with RUST_LOG put before the files; only a value made by
    // hand can be wrong here.
    let filter = EnvFilter::try_new(&telemetry.log).unwrap_or_else(|_| EnvFilter::new("info"));
    // PostgreSQL's notices ("already exists, skipping") are about our own idempotent set-up.
    let filter = filter.add_directive("sqlx::postgres::notice=warn".parse().expect("a valid directive"));
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Unlocked).with_ansi(colours);
    match telemetry.log_format {
        LogFormat::Text => lines.try_init().is_ok(),
        LogFormat::Json => lines.json().flatten_event(true).try_init().is_ok(),
    }
}

/// Standard error without the lock that Rust keeps around it: in a process that was forked while another thread held that
/// lock, the first line would wait for ever. A line is one write, so lines stay whole.
struct Unlocked;

impl io::Write for Unlocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Looked up each time: the host may put another file in its place.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        (&stderr).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The metrics of one process, registered in a registry of their own. No label takes ids or user input but
/// `route`, which is the route's pattern.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Tasks created.
    pub tasks_created: IntCounter,
    /// Tasks that reached a terminal state, by `state`.
    pub tasks_ended: IntCounterVec,
    /// Reports of attempts that were accepted, by `outcome`.
    pub steps_reported: IntCounterVec,
    /// Items per batch, by `actor`; its count is the number of batches.
    pub batch_size: HistogramVec,
    /// Seconds from begin to a known commit, by `actor`.
    pub commit_seconds: HistogramVec,
    /// Reports whose claim token no longer held.
    pub fences_refused: IntCounter,
    /// Transactions run again after a transient failure, by `actor`.
    pub transaction_retries: IntCounterVec,
    /// Snapshots that the cache held in the right version.
    pub cache_hits: IntCounter,
    /// Snapshots that had to be loaded.
    pub cache_misses: IntCounter,
    /// Items waiting, by `inbox`.
    pub inbox_depth: IntGaugeVec,
    /// Tickets claimed.
    pub claims: IntCounter,
    /// Claims given back unrun.
    pub claims_released: IntCounter,
    /// Heartbeats that found their claim lost.
    pub heartbeats_lost: IntCounter,
    /// Domain events, by `fate`: `published` durably, `delivered` to a subscriber in this process, `dropped` because its
    /// inbox was full, `invalid` and so not published.
    pub domain_events: IntCounterVec,
    /// Circuit breakers of resources that this process saw open.
    pub breakers_opened: IntCounter,
    /// How many handlers the worker of this process may run at once.
    pub worker_slots: IntGauge,
    /// How many of these slots are taken.
    pub worker_slots_busy: IntGauge,
    /// 1 while the database does not answer and requests are refused at once.
    pub database_breaker_open: IntGauge,
    /// Seconds per HTTP request, by `route`, `method` and `status`.
    pub http_seconds: HistogramVec,
    registry: Registry,
}

/// From half a millisecond, below the cheapest commit, to beyond the statement timeout.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 35.0];

/// From a lone item to the largest batch that is usual.
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0];

impl Metrics {
    /// New metrics, all zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            tasks_created: counter(r, "tasks_created_total", "Tasks created."),
            tasks_ended: counters(r, "tasks_ended_total", "Tasks that reached a terminal state.", &["state"]),
            steps_reported: counters(r, "steps_reported_total", "Accepted reports of attempts.", &["outcome"]),
            batch_size: histograms(r, "batch_size", "Items per batch.", &["actor"], SIZES),
            commit_seconds: histograms(r, "commit_seconds", "From begin to commit.", &["actor"], SECONDS),
            fences_refused: counter(r, "fences_refused_total", "Reports whose claim token no longer held."),
            transaction_retries: counters(r, "transaction_retries_total", "Transactions run again.", &["actor"]),
            cache_hits: counter(r, "cache_hits_total", "Snapshots found in the cache."),
            cache_misses: counter(r, "cache_misses_total", "Snapshots loaded."),
            inbox_depth: register(r, IntGaugeVec::new(opts("inbox_depth", "Items waiting in an inbox."), &["inbox"])),
            claims: counter(r, "claims_total", "Tickets claimed."),
            claims_released: counter(r, "claims_released_total", "Claims given back unrun."),
            heartbeats_lost: counter(r, "heartbeats_lost_total", "Heartbeats that found their claim lost."),
            domain_events: counters(r, "domain_events_total", "Domain events.", &["fate"]),
            breakers_opened: counter(r, "breakers_opened_total", "Circuit breakers of resources that opened."),
            worker_slots: gauge(r, "worker_slots", "Handlers that may run at once."),
            worker_slots_busy: gauge(r, "worker_slots_busy", "Slots that are taken."),
            database_breaker_open: gauge(
                r,
                "database_breaker_open",
                "1 while requests are refused for want of the database.",
            ),
            http_seconds: histograms(
                r,
                "http_request_seconds",
                "Duration of HTTP requests.",
                &["route", "method", "status"],
                SECONDS,
            ),
            registry,
        }
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to memory can't fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)))
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("tasker")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("names and labels are constants in the right form");
    registry.register(Box::new(collector.clone())).expect("every name is registered once");
    collector
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::with_opts(opts(name, help)))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).namespace("tasker").buckets(buckets.to_vec());
    register(registry, HistogramVec::new(opts, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_things_are_rendered_with_their_labels() {
        let metrics = Metrics::new();
        metrics.tasks_created.inc_by(3);
        metrics.tasks_ended.with_label_values(&["complete"]).inc();
        metrics.batch_size.with_label_values(&["result"]).observe(7.0);
        metrics.inbox_depth.with_label_values(&["result"]).set(5);
        metrics.http_seconds.with_label_values(&["/v1/tasks", "POST", "201"]).observe(0.002);
        let text = metrics.render();
        for line in [
            "tasker_tasks_created_total 3",
            "tasker_tasks_ended_total{state=\"complete\"} 1",
            "tasker_batch_size_bucket{actor=\"result\",le=\"5\"} 0",
            "tasker_batch_size_bucket{actor=\"result\",le=\"10\"} 1",
            "tasker_inbox_depth{inbox=\"result\"} 5",
            "tasker_http_request_seconds_count{method=\"POST\",route=\"/v1/tasks\",status=\"201\"} 1",
            "tasker_fences_refused_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn two_sets_of_metrics_do_not_share_numbers() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.claims.inc();
        assert_eq!((one.claims.get(), other.claims.get()), (1, 0));
    }

    #[test]
    fn a_second_init_changes_nothing_and_does_not_panic() {
        let mut telemetry = crate::config::Config::default().telemetry;
        telemetry.log = "error".to_owned();
        assert!(init(&telemetry));
        telemetry.log_format = LogFormat::Json;
        telemetry.log = "trace".to_owned();
        assert!(!init(&telemetry));
        assert!(!tracing::enabled!(tracing::Level::TRACE), "the first filter still holds");
    }
}
