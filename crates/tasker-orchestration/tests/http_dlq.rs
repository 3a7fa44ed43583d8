//! The ledger of dead letters over HTTP, against a real database.
#![allow(clippy::unwrap_used, reason = "tests")]

mod http_support;

use http_support::{Answer, ORDER, Server, failure, order, success};
use serde_json::{Value, json};
use tasker_client::types::{
    DlqEntry, DlqFiling, DlqQuery, DlqUpdate, InvestigationQuery, ResolutionStatus, StepAction, TaskState,
};
use uuid::Uuid;

/// A task whose step `charge` was given up after two attempts.
async fn blocked(server: &Server, priority: i16) -> Uuid {
    let mut request = order();
    request.priority = priority;
    let task = server.client.create_task(&request).await.unwrap().task_uuid;
    server.work_until_settled(task, |step, _| if step == 1 { failure(true) } else { success("1") }).await;
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::BlockedByFailures);
    task
}

/// The one entry of a task, once it has its snapshot.
async fn described(server: &Server, task: Uuid) -> DlqEntry {
    for _ in 0..500 {
        let entry = server.client.dlq_of_task(task).await.unwrap().entries.remove(0);
        if entry.task_snapshot.is_some() {
            return entry;
        }
        // The finalizer was told with the commit; every answer gives it the time of one.
        server.get(&format!("/v1/tasks/{task}/wait?timeout_ms=20")).await;
    }
    panic!("the entry of {task} gets no snapshot");
}

fn update(status: ResolutionStatus) -> DlqUpdate {
    DlqUpdate {
        resolution_status: status,
        resolution_notes: Some("the bank was away".to_owned()),
        resolved_by: Some("ann".to_owned()),
    }
}

async fn set_age(server: &Server, task: Uuid, hours: i32) {
    let older = "UPDATE tasker.dead_letters SET created_at = created_at - $2 * interval '1 hour' WHERE task_uuid = $1";
    sqlx::query(older).bind(task).bind(hours).execute(&server.db.pool).await.unwrap();
}

#[tokio::test]
async fn a_step_that_was_given_up_is_in_the_ledger_with_every_attempt() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = blocked(&server, 0).await;
    let entry = described(&server, task).await;
    assert_eq!((entry.step_name.as_deref(), entry.attempt), (Some("charge"), Some(2)));
    assert_eq!((entry.dlq_reason.as_str(), entry.filed_by), ("attempts_exhausted", None));
    assert_eq!((entry.namespace.as_deref(), entry.task_name.as_deref()), (Some("shop"), Some("order")));
    assert_eq!(
        (entry.current_state.as_deref(), entry.resolution_status),
        (Some("blocked_by_failures"), ResolutionStatus::Pending)
    );
    let snapshot: Value = serde_json::from_str(entry.task_snapshot.unwrap().get()).unwrap();
    let codes = snapshot["attempts"].as_array().unwrap().iter().map(|attempt| attempt["error"]["error_code"].clone());
    assert_eq!(codes.collect::<Vec<_>>(), ["E42", "E42"]);
    let charge = entry.step_uuid.unwrap();
    let list = server.client.dlq(&DlqQuery::default()).await.unwrap();
    assert_eq!((list.entries.len(), list.entries[0].task_snapshot.is_none()), (1, true));

    server.client.act_on_step(task, charge, &StepAction::reset_for_retry("r", "ann")).await.unwrap();
    server.work_until_settled(task, |_, _| success("1")).await;
    let kept = server.client.dlq_of_task(task).await.unwrap();
    assert_eq!(kept.entries[0].current_state.as_deref(), Some("complete"), "the entry stays for whoever looks into it");
    assert_eq!(server.get(&format!("/v1/dlq/task/{}", Uuid::from_u128(task.as_u128() ^ (1 << 90)))).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn resolutions_are_kept_with_who_and_when_and_entries_can_be_opened_again() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = blocked(&server, 0).await;
    let entry = server.client.dlq_of_task(task).await.unwrap().entries[0].dlq_entry_uuid;
    let failed = server.client.update_dlq_entry(entry, &update(ResolutionStatus::PermanentlyFailed)).await.unwrap();
    assert_eq!(
        (failed.resolved_by.as_deref(), failed.resolution_notes.as_deref()),
        (Some("ann"), Some("the bank was away"))
    );
    assert!(failed.resolution_timestamp.is_some());
    let open = server.client.update_dlq_entry(entry, &update(ResolutionStatus::Pending)).await.unwrap();
    assert_eq!((open.resolution_status, open.resolution_timestamp), (ResolutionStatus::Pending, None));
    let statuses: Vec<_> = open.resolutions.iter().map(|resolution| resolution.status).collect();
    assert_eq!(statuses, [ResolutionStatus::PermanentlyFailed, ResolutionStatus::Pending]);
    for _ in 0..120 {
        server.client.update_dlq_entry(entry, &update(ResolutionStatus::Cancelled)).await.unwrap();
    }
    let last = server.client.update_dlq_entry(entry, &update(ResolutionStatus::ManuallyResolved)).await.unwrap();
    assert_eq!(last.resolutions.len(), 100, "the log is bounded");
    assert_eq!(last.resolutions[99].status, ResolutionStatus::ManuallyResolved);
    assert_eq!(server.client.get_task(task).await.unwrap().status, TaskState::BlockedByFailures, "no step moved");

    let url = |id: &str| format!("{}/v1/dlq/entry/{id}", server.base);
    let patch =
        async |id: &str, body: Value| Answer::of(server.http.patch(url(id)).json(&body).send().await.unwrap()).await;
    let id = entry.to_string();
    let full = json!({"resolution_status": "cancelled", "resolution_notes": "n", "resolved_by": "ann"});
    assert_eq!(patch(&Uuid::from_u128(7).to_string(), full.clone()).await.status, 404);
    assert_eq!(patch("seven", full).await.code(), "INVALID_ID");
    for (body, place) in [
        (json!({"resolution_status": "cancelled", "resolution_notes": "n"}), "/resolved_by"),
        (json!({"resolution_status": "cancelled", "resolved_by": "ann"}), "/resolution_notes"),
        (json!({"resolution_status": "forgotten", "resolution_notes": "n", "resolved_by": "ann"}), "forgotten"),
    ] {
        let refused = patch(&id, body).await;
        assert!(refused.status == 422 && refused.text.contains(place), "{refused:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_ledger_is_paged_and_filtered() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..5 {
        let task = blocked(&server, 0).await;
        made.insert(0, server.client.dlq_of_task(task).await.unwrap().entries[0].dlq_entry_uuid);
    }
    let mut seen = Vec::new();
    let mut query = DlqQuery { limit: Some(2), ..DlqQuery::default() };
    loop {
        let page = server.client.dlq(&query).await.unwrap();
        seen.extend(page.entries.iter().map(|entry| entry.dlq_entry_uuid));
        assert_eq!(page.pagination.has_next, page.pagination.next_cursor.is_some());
        query.cursor = page.pagination.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, made);
    server.client.update_dlq_entry(made[3], &update(ResolutionStatus::ManuallyResolved)).await.unwrap();
    let resolved = server.get("/v1/dlq?resolution_status=manually_resolved").await.json();
    assert_eq!(
        (resolved["entries"].as_array().unwrap().len(), &resolved["entries"][0]["dlq_entry_uuid"]),
        (1, &json!(made[3]))
    );
    let pending = server.get("/v1/dlq?resolution_status=pending&limit=100").await.json();
    assert_eq!(pending["entries"].as_array().unwrap().len(), 4);
    for (query, code) in
        [("cursor=abc", "INVALID_CURSOR"), ("limit=0", "INVALID_REQUEST"), ("status=x", "UNKNOWN_FIELD")]
    {
        assert_eq!(server.get(&format!("/v1/dlq?{query}")).await.code(), code, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_most_urgent_comes_first_and_figures_are_made_by_reason() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let (old, new) = (blocked(&server, 0).await, blocked(&server, 10).await);
    let (ancient, resolved) = (blocked(&server, -30).await, blocked(&server, 30).await);
    set_age(&server, old, 20).await;
    set_age(&server, ancient, 1_000).await;
    let entry = server.client.dlq_of_task(resolved).await.unwrap().entries[0].dlq_entry_uuid;
    server.client.update_dlq_entry(entry, &update(ResolutionStatus::ManuallyResolved)).await.unwrap();
    let queue = server.client.investigation_queue(&InvestigationQuery::default()).await.unwrap();
    let told: Vec<_> =
        queue.entries.iter().map(|urgent| (urgent.entry.task_uuid.unwrap(), urgent.priority_score.round())).collect();
    // Age in hours, at most 168; five for each of two attempts; the priority.
    assert_eq!(told, [(ancient, 148.0), (old, 30.0), (new, 20.0)]);
    assert!(queue.entries[1].minutes_in_dlq >= 1_200.0 && queue.entries[2].task_priority == 10, "{queue:?}");
    let first = server.get("/v1/dlq/investigation-queue?limit=1").await.json();
    assert_eq!(first["entries"].as_array().unwrap().len(), 1);

    let stats = server.client.dlq_stats().await.unwrap();
    assert_eq!((stats.entries_counted, stats.reasons.len()), (4, 1));
    let figures = &stats.reasons[0];
    assert_eq!((figures.dlq_reason.as_str(), figures.pending, figures.manually_resolved), ("attempts_exhausted", 3, 1));
    assert!(figures.avg_resolution_time_minutes.is_some() && figures.oldest_entry < figures.newest_entry);
    server.stop().await;
}

#[tokio::test]
async fn a_task_is_filed_by_hand_once_with_all_its_attempts() {
    let server = Server::start().await;
    server.register(ORDER).await.unwrap();
    let task = server.client.create_task(&order()).await.unwrap().task_uuid;
    server.work_until_settled(task, |_, _| success("1")).await;
    let filing = DlqFiling { reason: Some("charged twice".to_owned()), filed_by: Some("ann".to_owned()) };
    let (one, other) = tokio::join!(server.client.file_task(task, &filing), server.client.file_task(task, &filing));
    let (filed, refused) = match (one, other) {
        (Ok(filed), Err(refused)) | (Err(refused), Ok(filed)) => (filed, refused),
        both => panic!("one of two files it: {both:?}"),
    };
    assert!(refused.is_code("ALREADY_FILED"), "{refused:?}");
    assert_eq!((filed.filed_by.as_deref(), filed.dlq_reason.as_str()), (Some("ann"), "charged twice"));
    assert_eq!((filed.step_uuid, filed.attempt), (None, None));
    let snapshot: Value = serde_json::from_str(filed.task_snapshot.unwrap().get()).unwrap();
    assert_eq!((&snapshot["state"], &snapshot["context"]), (&json!("complete"), &json!({"amount": 12.5})));
    assert_eq!(snapshot["attempts"].as_array().unwrap().len(), 4);

    let entry = filed.dlq_entry_uuid;
    server.client.update_dlq_entry(entry, &update(ResolutionStatus::ManuallyResolved)).await.unwrap();
    assert_ne!(
        server.client.file_task(task, &filing).await.unwrap().dlq_entry_uuid,
        entry,
        "what was resolved may come back"
    );
    let unknown = format!("/v1/dlq/task/{}", Uuid::from_u128(task.as_u128() ^ (1 << 90)));
    assert_eq!(server.post(&unknown, r#"{"reason":"r","filed_by":"a"}"#).await.status, 404);
    let nobody = server.post(&format!("/v1/dlq/task/{task}"), r#"{"reason":"r"}"#).await;
    assert!(nobody.status == 422 && nobody.text.contains("/filed_by"), "{nobody:?}");
    server.stop().await;
}
