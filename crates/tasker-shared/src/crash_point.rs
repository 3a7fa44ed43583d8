//! Places where a test may make the process die, fail or stall. Free when off: one relaxed load.
//!
//! `TASKER_CRASH_POINT=name:action[:nth]` arms one point: `abort` kills the process, `error` makes the
//! caller fail, `sleep=MS` stalls it. Without `nth` the first passage counts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What an armed point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Error,
    Sleep(Duration),
}

#[derive(Debug)]
struct Armed {
    name: String,
    action: Action,
    left: AtomicU32,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// The failure that an armed point injects.
#[derive(Debug, thiserror::Error)]
#[error("injected failure at {0}")]
pub struct Injected(pub &'static str);

/// Passes the point `name`.
///
/// # Errors
/// [`Injected`] where the environment armed this point with `error`.
pub async fn pass(name: &'static str) -> Result<(), Injected> {
    let Some(armed) = ARMED.get_or_init(from_environment) else { return Ok(()) };
    if armed.name != name || armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return Ok(());
    }
    match armed.action {
        Action::Abort => std::process::abort(),
        Action::Error => Err(Injected(name)),
        Action::Sleep(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
    }
}

fn from_environment() -> Option<Armed> {
    let text = std::env::var("TASKER_CRASH_POINT").ok()?;
    let armed = parse(&text);
    assert!(armed.is_some(), "TASKER_CRASH_POINT={text}: expected name:abort|error|sleep=MS[:nth]");
    armed
}

fn parse(text: &str) -> Option<Armed> {
    let mut parts = text.split(':');
    let name = parts.next()?.to_owned();
    let action = match parts.next()? {
        "abort" => Action::Abort,
        "error" => Action::Error,
        sleep => Action::Sleep(Duration::from_millis(sleep.strip_prefix("sleep=")?.parse().ok()?)),
    };
    let nth = parts.next().map_or(Some(1), |nth| nth.parse().ok())?;
    Some(Armed { name, action, left: AtomicU32::new(nth) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_its_action_and_passage() {
        let armed = parse("report.after_update:sleep=250:3").expect("valid");
        assert_eq!(armed.action, Action::Sleep(Duration::from_millis(250)));
        assert_eq!(armed.left.load(Ordering::Relaxed), 3);
        assert!(parse("x").is_none() && parse("x:boom").is_none() && parse("x:abort:y").is_none());
    }
}
