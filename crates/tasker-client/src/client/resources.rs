//! What steps share.

use reqwest::Method;

use super::{Client, ClientError};
use crate::types::{ResourceInfo, ResourceList, ResourceQuery, ResourceUpdate};

impl Client {
    /// What steps share, with its limits and breakers.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn resources(&self, query: &ResourceQuery) -> Result<ResourceList, ClientError> {
        self.send(self.get(&["v1", "resources"]).query(query)).await
    }

    /// One resource.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn resource(&self, namespace: &str, name: &str) -> Result<ResourceInfo, ClientError> {
        self.send(self.get(&["v1", "resources", namespace, name])).await
    }

    /// Changes what a resource bears, pauses it, or closes its breaker.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn update_resource(
        &self,
        namespace: &str,
        name: &str,
        update: &ResourceUpdate,
    ) -> Result<ResourceInfo, ClientError> {
        self.send(self.request(Method::PATCH, &["v1", "resources", namespace, name]).json(update)).await
    }
}
