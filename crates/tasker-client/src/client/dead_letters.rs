//! The routes of `/v1/dlq`.

use reqwest::Method;
use uuid::Uuid;

use super::{Client, ClientError};
use crate::types::{
    DlqEntry, DlqFiling, DlqList, DlqQuery, DlqStats, DlqUpdate, InvestigationQuery, InvestigationQueue,
    StalenessReport,
};

impl Client {
    /// One page of dead letter entries, newest first.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn dlq(&self, query: &DlqQuery) -> Result<DlqList, ClientError> {
        self.send(self.get(&["v1", "dlq"]).query(query)).await
    }

    /// The dead letter entries of a task, with what was known when they were filed.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Api`] with status 404 where it has none.
    pub async fn dlq_of_task(&self, task: Uuid) -> Result<DlqList, ClientError> {
        self.send(self.get(&["v1", "dlq", "task", &task.to_string()])).await
    }

    /// Files a task by hand.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Api`] with status 409 where somebody has, and nobody has resolved it.
    pub async fn file_task(&self, task: Uuid, filing: &DlqFiling) -> Result<DlqEntry, ClientError> {
        self.send(self.post(&["v1", "dlq", "task", &task.to_string()], filing)).await
    }

    /// Writes down what was found out about an entry.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn update_dlq_entry(&self, entry: Uuid, update: &DlqUpdate) -> Result<DlqEntry, ClientError> {
        let path = ["v1", "dlq", "entry", &entry.to_string()];
        self.send(self.request(Method::PATCH, &path).json(update)).await
    }

    /// Pending entries, the most urgent first.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn investigation_queue(&self, query: &InvestigationQuery) -> Result<InvestigationQueue, ClientError> {
        self.send(self.get(&["v1", "dlq", "investigation-queue"]).query(query)).await
    }

    /// Live tasks that have passed a bound of their life. Looking changes nothing.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn stale_tasks(&self, query: &InvestigationQuery) -> Result<StalenessReport, ClientError> {
        self.send(self.get(&["v1", "dlq", "staleness"]).query(query)).await
    }

    /// How many entries there are of which reason.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn dlq_stats(&self) -> Result<DlqStats, ClientError> {
        self.send(self.get(&["v1", "dlq", "stats"])).await
    }
}
