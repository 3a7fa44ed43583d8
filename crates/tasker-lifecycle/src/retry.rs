//! When a failed attempt is tried again.

use crate::ids::StepId;
use crate::template::{Backoff, RetryPolicy};

/// The longest wait a policy or a hint may ask for: 30 days.
pub const MAX_BACKOFF_MS: u64 = 30 * 24 * 3_600_000;

/// Milliseconds to wait after `attempt` (from 1) failed.
///
/// A `hint` (a handler's `Retry-After`) wins over the policy and carries no jitter; both are capped by
/// the policy's maximum. The jitter of ±15 % is seeded by step and attempt, so that it can be computed
/// again and yet spreads steps that failed together.
#[must_use]
pub fn delay_ms(policy: &RetryPolicy, step: StepId, attempt: u32, hint: Option<u64>) -> u64 {
    let cap = policy.max_ms.min(MAX_BACKOFF_MS);
    if let Some(hint) = hint {
        return hint.min(cap);
    }
    let factor = match policy.backoff {
        Backoff::None => 0,
        Backoff::Linear => u64::from(attempt),
        Backoff::Exponential => 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX),
        Backoff::Fibonacci => fibonacci(attempt),
    };
    let base = policy.base_ms.saturating_mul(factor).min(cap);
    jitter(base, step, attempt).min(cap)
}

/// The `n`th Fibonacci number (1, 1, 2, 3, 5, …), saturating.
fn fibonacci(n: u32) -> u64 {
    let (mut a, mut b) = (0_u64, 1_u64);
    for _ in 0..n.min(100) {
        (a, b) = (b, a.saturating_add(b));
    }
    a
}

/// `base` moved by −15 % … +15 %.
fn jitter(base: u64, step: StepId, attempt: u32) -> u64 {
    let bits = step.uuid().as_u128();
    let seed = u64::try_from(bits >> 64).expect("the upper half fits")
        ^ u64::try_from(bits & u128::from(u64::MAX)).expect("the lower half fits")
        ^ (u64::from(attempt) << 48);
    let per_mille = 850 + splitmix64(seed) % 301;
    u64::try_from(u128::from(base) * u128::from(per_mille) / 1000).unwrap_or(u64::MAX)
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{StepIndex, TaskId};

    fn waits(backoff: Backoff, max_ms: u64) -> Vec<u64> {
        let policy = RetryPolicy { retryable: true, max_attempts: 9, backoff, base_ms: 1000, max_ms };
        let step = TaskId::new(1, 7).step(StepIndex(0));
        (1..=6).map(|attempt| delay_ms(&policy, step, attempt, None)).collect()
    }

    #[test]
    fn each_kind_grows_as_its_name_says() {
        for (backoff, factors) in [
            (Backoff::None, [0, 0, 0, 0, 0, 0]),
            (Backoff::Linear, [1, 2, 3, 4, 5, 6]),
            (Backoff::Exponential, [1, 2, 4, 8, 16, 32]),
            (Backoff::Fibonacci, [1, 1, 2, 3, 5, 8]),
        ] {
            for (wait, factor) in waits(backoff, u64::MAX).into_iter().zip(factors) {
                let exact = 1000 * factor;
                assert!((exact * 85 / 100..=exact * 115 / 100).contains(&wait), "{backoff:?}: {wait}");
            }
        }
    }

    #[test]
    fn the_cap_holds_for_policy_and_hint() {
        assert!(waits(Backoff::Exponential, 5000).iter().all(|wait| *wait <= 5000));
        let policy = RetryPolicy { retryable: true, max_attempts: 3, backoff: Backoff::None, base_ms: 0, max_ms: 700 };
        let step = TaskId::new(1, 7).step(StepIndex(0));
        assert_eq!(delay_ms(&policy, step, 1, Some(300)), 300);
        assert_eq!(delay_ms(&policy, step, 1, Some(3000)), 700);
    }

    #[test]
    fn steps_that_failed_together_spread() {
        let policy =
            RetryPolicy { retryable: true, max_attempts: 3, backoff: Backoff::Linear, base_ms: 10_000, max_ms: 60_000 };
        let task = TaskId::new(1, 7);
        let waits: std::collections::BTreeSet<u64> =
            (0..100).map(|i| delay_ms(&policy, task.step(StepIndex(i)), 1, None)).collect();
        assert!(waits.len() > 60, "{}", waits.len());
    }
}
