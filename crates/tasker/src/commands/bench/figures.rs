//! The figures of a run, as printed.

use serde::Serialize;

/// The one JSON object that `tasker bench --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) workload: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) tasks: usize,
    pub(crate) steps: usize,
    pub(crate) concurrency: usize,
    pub(crate) seconds: f64,
    pub(crate) tasks_per_s: f64,
    pub(crate) steps_per_s: f64,
    /// From the request to knowing that the task is complete.
    pub(crate) latency_ms: Quantiles,
    /// From the last parent's end to the handler's start.
    pub(crate) engine_ms_per_step: Quantiles,
    pub(crate) cpu_s: Cpu,
    pub(crate) cpu_ms_per_step: Option<f64>,
    pub(crate) rss_mb: f64,
    pub(crate) wal_bytes_per_step: f64,
    pub(crate) commits_per_step: f64,
    /// `null` where the server does not load `pg_stat_statements`.
    pub(crate) statements_per_step: Option<f64>,
}

/// CPU seconds by process; in local mode server, worker and load generator are one.
#[derive(Debug, Serialize)]
pub(crate) struct Cpu {
    pub(crate) server: f64,
    pub(crate) worker: f64,
    pub(crate) postgres: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    /// The quantiles (nearest rank) of some milliseconds; zeros where there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quantile: f64| -> f64 {
            let rank = (quantile * values.len() as f64).ceil().max(1.0) as usize;
            values.get(rank - 1).copied().unwrap_or_default()
        };
        Self { p50: round(at(0.5)), p95: round(at(0.95)), p99: round(at(0.99)), max: round(at(1.0)) }
    }
}

/// Three decimals.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let quantiles = Quantiles::of((1..=200).rev().map(f64::from).collect());
        let Quantiles { p50, p95, p99, max } = quantiles;
        assert_eq!([p50, p95, p99, max].map(|value| value as u32), [100, 190, 198, 200]);
        assert_eq!(Quantiles::of(vec![]).p50.to_bits(), 0);
    }
}
