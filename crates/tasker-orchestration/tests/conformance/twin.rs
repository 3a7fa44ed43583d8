//! The task in memory beside the stored one: it takes over the numbers that the server gave.

use tasker_lifecycle::{
    Decision, Effect, Event, Holder, Nonce, StepIndex, StepState, Task, TicketRef, Timestamp, decide,
};
use uuid::Uuid;

pub(super) fn name(effect: &Effect) -> String {
    match effect {
        Effect::Enqueue { .. } => "ticket".to_owned(),
        Effect::Schedule { .. } => "due time".to_owned(),
        Effect::Hold { .. } => "hold".to_owned(),
        Effect::Withdraw { holder: Holder::Due { .. }, .. } => "due time withdrawn".to_owned(),
        Effect::Withdraw { .. } => "ticket withdrawn".to_owned(),
        Effect::DeadLetter { reason, .. } => format!("{reason:?}"),
        Effect::TaskEnded(state) => state.to_string(),
    }
}

/// Tickets and rows get the numbers that the server gave. One that the same commit took away again gets any.
pub(super) fn adopt(twin: &mut Task, decision: &Decision, stored: &Task) {
    for effect in &decision.effects {
        let (step, is_due) = match effect {
            Effect::Enqueue { step, .. } => (*step, false),
            Effect::Schedule { step, .. } => (*step, true),
            Effect::Hold { step } => {
                twin.hold(*step, Holder::Due { nonce: Nonce(Uuid::nil()) });
                continue;
            }
            Effect::Withdraw { .. } | Effect::DeadLetter { .. } | Effect::TaskEnded(_) => continue,
        };
        let holder = match stored.live(step).holder {
            Holder::None => Holder::Ticket(TicketRef { msg_id: 0, nonce: Nonce(Uuid::nil()) }),
            holder => {
                assert_eq!(matches!(holder, Holder::Due { .. }), is_due, "step {step}: {effect:?}, {holder:?}");
                holder
            }
        };
        twin.hold(step, holder);
    }
}

/// The resource that steps use here has no limit and never fails: what is held is let through in the same commit.
pub(super) fn admit(twin: &mut Task, stored: &Task) -> Option<String> {
    let held: Vec<StepIndex> = (0..twin.steps().len()).map(StepIndex::from).collect();
    let held = held.into_iter().filter(|step| twin.step(*step) == Some(StepState::Held)).collect::<Vec<_>>();
    for step in &held {
        let event = Event::Admitted { step: *step, nonce: Nonce(Uuid::nil()) };
        let decision = decide(twin, &event, Timestamp(0)).unwrap();
        decision.evolve(twin);
        adopt(twin, &decision, stored);
    }
    (!held.is_empty()).then(|| "Admitted".to_owned())
}
