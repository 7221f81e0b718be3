//! Who a peer is: mutual TLS with SPIFFE identities, from files that rotate.
use crate::config::settings::MeshSecurity;
use crate::model::NodeId;
use std::sync::Arc;

mod spiffe;
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};

/// A node's certificates: rustls configurations for both directions, over files that are read again as they change.
pub struct Identities {}

/// Why there is no usable certificate, with the file and the mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    Unusable(String),
}

impl Identities {
    /// Reads the files once; fails if they cannot serve `me`.
    pub fn load(_security: &MeshSecurity, _me: &NodeId) -> Result<Arc<Identities>, TlsError> {
        todo!()
    }
    /// Watches the files until the task is aborted; a bad new file keeps the old pair and is logged.
    pub async fn reload_forever(self: Arc<Self>) {
        todo!()
    }
    pub fn server_config(&self) -> quinn::ServerConfig {
        todo!()
    }
    pub fn client_config(&self) -> quinn::ClientConfig {
        todo!()
    }
    /// The node that the peer's certificate names. `None` with `insecure_dev`, where the hello is believed.
    pub fn peer_of(&self, _connection: &quinn::Connection) -> Result<Option<NodeId>, TlsError> {
        todo!()
    }
    /// Expiry of the certificate in use, Unix seconds.
    pub fn expires_at(&self) -> Option<u64> {
        todo!()
    }
    /// Resolves when a new certificate or CA has been taken into use, so that old links can be renewed.
    pub async fn rotated(&self) {
        todo!()
    }
}
