//! An operator's actions on a step. What can be refused without the task's lock is refused here; whether the step's
//! state admits the action is decided with the task locked.

use std::sync::Arc;

use serde_json::Value;
use serde_json::json;
use serde_json::value::RawValue;
use tasker_client::types::{CompletionData, StepAction, StepActionType};
use tasker_lifecycle::template::{StepTemplate, Template};
use tasker_lifecycle::{Event, Follows, StepIndex, StepState, TaskId};
use tasker_shared::json_schema::{compile, violations};
use tasker_shared::store::queries;
use tasker_shared::store::writes::ByHand;
use tasker_shared::{follows, portable};
use uuid::Uuid;

use crate::engine::Engine;
use crate::enqueuer::{Ordered, Repair};
use crate::errors::{CommandError, Violation};
use crate::submit::{NAME_MAX, REASON_MAX, bad_text};

impl Engine {
    /// Resets, resolves or completes a step by hand; the task then goes on by itself.
    ///
    /// # Errors
    /// Where there is no such task or step, the request is not valid, the step's state does not admit the action, or
    /// it could not be carried out.
    pub async fn act_on_step(&self, task: TaskId, step: StepIndex, request: StepAction) -> Result<(), CommandError> {
        let mut conn = self.pool().acquire().await.map_err(|_| CommandError::Unavailable)?;
        let record = queries::task(&mut conn, task, self.templates()).await;
        drop(conn);
        let record = record.map_err(|error| {
            tracing::warn!(%task, %error, "a task can't be read for an action on its step");
            CommandError::Unavailable
        })?;
        let record = record.ok_or(CommandError::NotFound)?;
        if !record.task.step(step).is_some_and(StepState::exists) {
            return Err(CommandError::NoSuchStep);
        }
        let (template, pattern) = (record.task.template(), record.task.pattern(step));
        let ordered = self.order(step, template, pattern, request).map_err(CommandError::Invalid)?;
        self.command(task, ordered).await.map(drop)
    }

    fn order(
        &self,
        step: StepIndex,
        template: &Template,
        pattern: StepIndex,
        request: StepAction,
    ) -> Result<Ordered, Vec<Violation>> {
        let StepAction { action_type, reason, reset_by, resolved_by, completed_by, completion_data } = request;
        let mut wrong = Wrong::default();
        let reason = wrong.required("/reason", reason, REASON_MAX);
        let mut by = String::new();
        for (path, given, of) in [
            ("/reset_by", reset_by, StepActionType::ResetForRetry),
            ("/resolved_by", resolved_by, StepActionType::ResolveManually),
            ("/completed_by", completed_by, StepActionType::CompleteManually),
        ] {
            if of == action_type {
                by = wrong.required(path, given, NAME_MAX);
            } else if given.is_some() {
                wrong.add(path, format!("belongs to `{}`, not to `{}`", of.as_str(), action_type.as_str()));
            }
        }
        let data = match (action_type, completion_data) {
            (StepActionType::CompleteManually, Some(data)) => {
                self.check_completion(template.step(pattern), &data, &mut wrong);
                Some(data)
            }
            (StepActionType::CompleteManually, None) => {
                wrong.add("/completion_data", "is required: `{\"result\": …}`".to_owned());
                None
            }
            (StepActionType::ResetForRetry | StepActionType::ResolveManually, Some(_)) => {
                wrong.add("/completion_data", "belongs to `complete_manually`".to_owned());
                None
            }
            (StepActionType::ResetForRetry | StepActionType::ResolveManually, None) => None,
        };
        let follows = data.as_ref().filter(|_| wrong.0.is_empty()).map(|data| {
            follows::of_result(template, pattern, &data.result)
                .unwrap_or_else(|why| wrong.refused("/completion_data/result", why))
        });
        if !wrong.0.is_empty() {
            return Err(wrong.0);
        }
        let event = match action_type {
            StepActionType::ResetForRetry => Event::StepReset { step },
            StepActionType::ResolveManually => Event::StepResolved { step },
            StepActionType::CompleteManually => {
                Event::StepCompleted { step, follows: follows.clone().unwrap_or_default() }
            }
        };
        let action = Uuid::from_u128(rand::random());
        let detail = json!({ "action_uuid": action, "by": by, "reason": reason }).to_string();
        let by_hand =
            data.map(|CompletionData { result, metadata }| (step, ByHand { result: Arc::from(result), metadata, by }));
        Ok(Ordered { event, detail, repair: Some(Repair { action, by_hand }) })
    }

    /// What a handler could not have reported is not taken from an operator either.
    fn check_completion(&self, template: &StepTemplate, data: &CompletionData, wrong: &mut Wrong) {
        const RESULT: &str = "/completion_data/result";
        let clean = wrong.0.len();
        self.check_payload(RESULT, &data.result, wrong);
        if let Some(metadata) = &data.metadata {
            self.check_payload("/completion_data/metadata", metadata, wrong);
        }
        let Some(schema) = template.result_schema.as_ref().filter(|_| wrong.0.len() == clean) else { return };
        match (compile(schema), serde_json::from_str::<Value>(data.result.get())) {
            (Ok(validator), Ok(result)) => wrong.0.extend(violations(&validator, &result, RESULT)),
            (Err(error), _) => wrong.add(RESULT, format!("the step's result_schema: {error}")),
            (_, Err(error)) => wrong.add(RESULT, format!("can't be read: {error}")),
        }
    }

    fn check_payload(&self, path: &str, payload: &RawValue, wrong: &mut Wrong) {
        let limits = &self.config().limits;
        if payload.get().len() > limits.payload_bytes {
            wrong.add(path, format!("is larger than {} bytes", limits.payload_bytes));
        } else if let Err(offence) = portable::check(payload.get(), limits.json_depth) {
            wrong.add(&format!("{path}{}", offence.path), offence.what.to_string());
        }
    }
}

/// What is wrong with a request so far.
#[derive(Debug, Default)]
pub(crate) struct Wrong(pub(crate) Vec<Violation>);

impl Wrong {
    pub(crate) fn add(&mut self, path: &str, message: String) {
        self.0.push(Violation { path: path.to_owned(), message });
    }

    fn refused(&mut self, path: &str, why: String) -> Follows {
        self.add(path, why);
        Follows::Nothing
    }

    /// The text, which must be there and say something.
    pub(crate) fn required(&mut self, path: &str, text: Option<String>, max: usize) -> String {
        let Some(text) = text else {
            self.add(path, "is required".to_owned());
            return String::new();
        };
        if let Some(offence) = bad_text(text.trim(), max) {
            self.add(path, offence);
        }
        text
    }
}
