//! Answers from what was read: pure functions from records to the shapes of the contract.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tasker_client::graph::Graph;
use tasker_client::types::{
    ExecutionStatus, StepResponse, TaskHealth, TaskRefusal, TaskRequest, TaskResponse, TaskSummary, empty_object,
};
use tasker_lifecycle::{Event, Expansion, StepIndex, StepState, Task, TaskId, TaskState, Timestamp, decide};
use tasker_shared::config::Limits;
use tasker_shared::portable;
use tasker_shared::store::from_sql;
use tasker_shared::store::queries::{LastAttempt, Summary, TaskRecord, Ticket};
use tasker_shared::store::refusals::Refusal;

use super::names::StepNames;
use crate::submit::Accepted;

/// A task with what is known of its steps beside their states.
#[derive(Debug)]
pub(super) struct TaskView {
    pub(super) record: TaskRecord,
    names: StepNames,
    tickets: HashMap<StepIndex, Ticket>,
    attempts: HashMap<StepIndex, LastAttempt>,
    now: Timestamp,
}

impl TaskView {
    pub(super) fn new(
        record: TaskRecord,
        names: StepNames,
        tickets: Vec<(StepIndex, Ticket)>,
        attempts: Vec<LastAttempt>,
        now: Timestamp,
    ) -> Self {
        let attempts = attempts.into_iter().map(|attempt| (attempt.step, attempt)).collect();
        Self { record, names, tickets: tickets.into_iter().collect(), attempts, now }
    }

    /// A task that was created just now, without a look at the database: what follows from a start is known.
    pub(super) fn of_new(accepted: Accepted) -> Self {
        let Accepted { created, template, context, details, priority, correlation_id, warnings: _ } = accepted;
        let mut task = Task::new(created.task, template);
        let created_at = created_at(created.task);
        let now = from_sql(created_at);
        decide(&task, &Event::Started, now).expect("a start always applies").evolve(&mut task);
        let record = TaskRecord {
            priority,
            updated_at: created_at,
            ended_at: None,
            context: (*context).to_owned(),
            correlation_id: correlation_id.unwrap_or(created.task.uuid()),
            parent_correlation_id: details.parent_correlation_id,
            initiator: details.initiator,
            source_system: details.source_system,
            reason: details.reason,
            tags: details.tags,
            task,
        };
        let names = StepNames::new(&record.task, &HashMap::new());
        Self::new(record, names, Vec::new(), Vec::new(), now)
    }

    /// A step's state, with `in_progress` where its ticket says so.
    pub(super) fn state(&self, step: StepIndex) -> StepState {
        let stored = self.record.task.steps()[step.at()];
        match self.tickets.get(&step) {
            Some(Ticket::Claimed { .. } | Ticket::Reported) if stored.is_live() => StepState::InProgress,
            _ => stored,
        }
    }

    /// The graph with the states of its steps. What was not created is shown as that; batch workers stand in the place
    /// of their pattern.
    pub(super) fn graph(&self) -> Graph {
        let task = &self.record.task;
        let replaced = |step: &StepIndex| task.expansions().iter().any(|expansion| expansion.worker == *step);
        let shown: Vec<StepIndex> =
            (0..task.steps().len()).map(StepIndex::from).filter(|step| !replaced(step)).collect();
        let places: HashMap<StepIndex, StepIndex> =
            shown.iter().enumerate().map(|(place, step)| (*step, StepIndex::from(place))).collect();
        let parents = shown.iter().map(|step| {
            task.parents(*step).iter().filter_map(|parent| places.get(parent).copied()).collect::<Vec<_>>()
        });
        let states: Vec<StepState> = shown.iter().map(|step| self.state(*step)).collect();
        Graph::new(&task.template().name, shown.iter().map(|step| self.name(*step)), parents, Some(&states))
    }

    /// What a step is called.
    pub(super) fn name(&self, step: StepIndex) -> &str {
        self.names.of(step).expect("the names were read with the task")
    }

    /// Every step that the task has, parents before children.
    pub(super) fn steps(&self) -> Vec<StepResponse> {
        let task = &self.record.task;
        let made = |pattern: StepIndex| {
            task.expansions().iter().filter(move |expansion| expansion.worker == pattern).flat_map(Expansion::steps)
        };
        let order = task.template().dag.topological().iter();
        let order = order.flat_map(|step| std::iter::once(*step).chain(made(*step)));
        order.filter(|step| task.steps()[step.at()].exists()).map(|step| self.step(step)).collect()
    }

    /// One step.
    pub(super) fn step(&self, index: StepIndex) -> StepResponse {
        let task = &self.record.task;
        let (template, live, state) = (task.template(), task.live(index), self.state(index));
        let policy = &template.step(task.pattern(index)).retry;
        let last = self.attempts.get(&index);
        let begun = match self.tickets.get(&index) {
            Some(Ticket::Claimed { attempt }) => *attempt,
            Some(Ticket::Waiting { attempts }) => *attempts,
            Some(Ticket::Reported) | None => 0,
        };
        let attempts = task.attempts(index).max(begun);
        let created = |parent: &StepIndex| task.steps()[parent.at()].exists();
        let parents = sum(task.parents(index).iter().filter(|parent| created(parent)).count());
        let waiting = task.waiting_parents(index);
        let due = live.retry_at.is_none_or(|at| at <= self.now);
        let open = !task.state().is_terminal();
        StepResponse {
            step_uuid: task.id().step(index).uuid(),
            task_uuid: task.id().uuid(),
            name: self.name(index).to_owned(),
            created_at: created_at(task.id()),
            updated_at: self.updated_at(index, state),
            completed_at: state.satisfies().then(|| last.map_or(self.record.updated_at, |last| last.ended_at)),
            results: last.filter(|_| state == StepState::Complete).and_then(|last| last.result.clone()),
            current_state: state,
            dependencies_satisfied: waiting == 0,
            retry_eligible: matches!(
                state,
                StepState::Pending
                    | StepState::Held
                    | StepState::Enqueued
                    | StepState::InProgress
                    | StepState::WaitingForRetry
            ) && policy.retryable
                && attempts < task.limit(index)
                && last.is_none_or(|last| last.retryable != Some(false)),
            ready_for_execution: open
                && waiting == 0
                && due
                && matches!(state, StepState::Pending | StepState::WaitingForRetry),
            total_parents: parents,
            // What a decision may still create is waited for, and no parent yet.
            completed_parents: parents.saturating_sub(waiting),
            attempts,
            max_attempts: task.limit(index),
            last_failure_at: last.and_then(|last| last.last_failure_at),
            next_retry_at: (state == StepState::WaitingForRetry).then(|| live.retry_at.map(to_utc)).flatten(),
            last_attempted_at: last.and_then(|last| last.started_at),
        }
    }

    /// A step moves when an attempt ends, when its last parent does, or when its task is ended.
    fn updated_at(&self, index: StepIndex, state: StepState) -> DateTime<Utc> {
        let ended = |step: &StepIndex| self.attempts.get(step).map(|last| last.ended_at);
        let start = created_at(self.record.task.id());
        match state {
            StepState::Cancelled | StepState::ResolvedManually => self.record.updated_at,
            StepState::Pending => start,
            _ => {
                let parents = self.record.task.parents(index);
                parents.iter().filter_map(ended).chain(ended(&index)).max().unwrap_or(start)
            }
        }
    }

    /// The whole task.
    pub(super) fn response(self) -> TaskResponse {
        let steps = self.steps();
        let count = |wanted: fn(&StepResponse) -> bool| sum(steps.iter().filter(|step| wanted(step)).count());
        let in_progress = count(|step| matches!(step.current_state, StepState::Enqueued | StepState::InProgress));
        let failed = count(|step| step.current_state == StepState::Error);
        let completed = count(|step| step.current_state.satisfies());
        let ready = count(|step| step.ready_for_execution);
        let (total, pending) =
            (sum(steps.len()), count(|step| matches!(step.current_state, StepState::Pending | StepState::Held)));
        let record = self.record;
        let status = record.task.state();
        let template = record.task.template();
        let execution_status = if ready > 0 {
            ExecutionStatus::HasReadySteps
        } else if in_progress > 0 {
            ExecutionStatus::Processing
        } else if completed == total {
            ExecutionStatus::AllComplete
        } else if matches!(status, TaskState::BlockedByFailures | TaskState::Error) {
            ExecutionStatus::BlockedByFailures
        } else {
            ExecutionStatus::WaitingForDependencies
        };
        let waiting = record.task.count(StepState::WaitingForRetry);
        TaskResponse {
            task_uuid: record.task.id().uuid(),
            name: template.name.clone(),
            namespace: template.namespace.to_string(),
            version: template.version.to_string(),
            status,
            created_at: created_at(record.task.id()),
            updated_at: record.updated_at,
            completed_at: record.ended_at,
            context: record.context,
            initiator: record.initiator,
            source_system: record.source_system,
            reason: record.reason,
            priority: record.priority,
            tags: record.tags,
            correlation_id: record.correlation_id,
            parent_correlation_id: record.parent_correlation_id,
            total_steps: total,
            pending_steps: pending,
            in_progress_steps: in_progress,
            completed_steps: completed,
            failed_steps: failed,
            ready_steps: ready,
            execution_status,
            // What ended is finished, whatever its steps are like.
            recommended_action: if status.is_terminal() {
                ExecutionStatus::AllComplete.recommended_action()
            } else {
                execution_status.recommended_action()
            },
            completion_percentage: percentage(completed, total),
            health_status: match status {
                TaskState::BlockedByFailures | TaskState::Error => TaskHealth::Blocked,
                _ if failed + waiting > 0 => TaskHealth::Recovering,
                _ => TaskHealth::Healthy,
            },
            steps,
            refusal: None,
            warnings: Vec::new(),
        }
    }
}

impl TaskView {
    /// The task without its steps.
    pub(super) fn summary(self) -> TaskSummary {
        let record = self.record;
        let (task, template) = (&record.task, record.task.template());
        let (total, completed) = (sum(task.steps().len()), sum(task.steps().iter().filter(|s| s.satisfies()).count()));
        TaskSummary {
            task_uuid: task.id().uuid(),
            name: template.name.clone(),
            namespace: template.namespace.to_string(),
            version: template.version.to_string(),
            status: task.state(),
            created_at: created_at(task.id()),
            updated_at: record.updated_at,
            completed_at: record.ended_at,
            failed_steps: task.count(StepState::Error),
            total_steps: total,
            completed_steps: completed,
            completion_percentage: percentage(completed, total),
            initiator: record.initiator,
            source_system: record.source_system,
            priority: record.priority,
            tags: record.tags,
            correlation_id: record.correlation_id,
        }
    }
}

/// A request that became no task, as a task that ended in error before it had a step.
pub(super) fn refused(refusal: Refusal, refused_at: DateTime<Utc>, limits: &Limits) -> TaskResponse {
    let Refusal { task, namespace, name, version, code, message, details, request } = refusal;
    // What can't be read as a request was refused for that.
    let asked: TaskRequest =
        serde_json::from_str(request.get()).unwrap_or_else(|_| TaskRequest::new(namespace.as_str(), name.as_str()));
    // A context that was refused for what it is would be a nuisance in the answer too.
    let context = asked.context.get();
    let shown = context.len() <= limits.payload_bytes && portable::check(context, limits.json_depth).is_ok();
    TaskResponse {
        task_uuid: task.uuid(),
        name,
        namespace,
        version: version.unwrap_or_default(),
        status: TaskState::Error,
        created_at: created_at(task),
        updated_at: refused_at,
        completed_at: Some(refused_at),
        context: if shown { asked.context } else { empty_object() },
        initiator: asked.initiator,
        source_system: asked.source_system,
        reason: asked.reason,
        priority: asked.priority,
        tags: asked.tags,
        correlation_id: asked.correlation_id.unwrap_or(task.uuid()),
        parent_correlation_id: asked.parent_correlation_id,
        total_steps: 0,
        pending_steps: 0,
        in_progress_steps: 0,
        completed_steps: 0,
        failed_steps: 0,
        ready_steps: 0,
        execution_status: ExecutionStatus::BlockedByFailures,
        recommended_action: ExecutionStatus::AllComplete.recommended_action(),
        completion_percentage: 0.0,
        health_status: TaskHealth::Blocked,
        steps: Vec::new(),
        refusal: Some(TaskRefusal { code, message, details }),
        warnings: Vec::new(),
    }
}

/// A task in a list.
pub(super) fn summary(row: Summary) -> TaskSummary {
    let of = |letters: &[char]| sum(row.steps.chars().filter(|letter| letters.contains(letter)).count());
    let absent = of(&[StepState::NotCreated.letter(), StepState::Skipped.letter()]);
    let (total, completed) = (sum(row.steps.len()) - absent, of(&['C', 'R']));
    TaskSummary {
        task_uuid: row.id.uuid(),
        failed_steps: of(&['E']),
        total_steps: total,
        completed_steps: completed,
        completion_percentage: percentage(completed, total),
        name: row.name,
        namespace: row.namespace,
        version: row.version,
        status: row.state,
        created_at: created_at(row.id),
        updated_at: row.updated_at,
        completed_at: row.ended_at,
        initiator: row.initiator,
        source_system: row.source_system,
        priority: row.priority,
        tags: row.tags,
        correlation_id: row.correlation_id,
    }
}

/// When a task was accepted: its id begins with that, and lists are sorted by it.
pub(super) fn created_at(task: TaskId) -> DateTime<Utc> {
    let ms = i64::try_from(task.uuid().as_u128() >> 80).expect("48 bits");
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn to_utc(at: Timestamp) -> DateTime<Utc> {
    tasker_shared::store::to_sql(at)
}

fn sum(count: usize) -> u32 {
    u32::try_from(count).expect("a task has at most 100,000 steps")
}

fn percentage(completed: u32, total: u32) -> f64 {
    (f64::from(completed) * 10_000.0 / f64::from(total.max(1))).round() / 100.0
}
