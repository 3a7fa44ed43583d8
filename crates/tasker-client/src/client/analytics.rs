//! The routes of `/v1/analytics`.

use super::{Client, ClientError};
use crate::types::{Bottlenecks, BottlenecksQuery, Performance, PerformanceQuery};

impl Client {
    /// How many tasks of the last hours ended how, and how long handlers ran.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn performance(&self, query: &PerformanceQuery) -> Result<Performance, ClientError> {
        self.send(self.get(&["v1", "analytics", "performance"]).query(query)).await
    }

    /// The steps and templates of the last hours whose handlers ran longest.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn bottlenecks(&self, query: &BottlenecksQuery) -> Result<Bottlenecks, ClientError> {
        self.send(self.get(&["v1", "analytics", "bottlenecks"]).query(query)).await
    }
}
