//! Who a peer is: mutual TLS with SPIFFE identities, from files that rotate.
//!
//! DNS and gossip only say where somebody might be; what makes him a member is a certificate of the mesh's CA, and the
//! node it names. Both sides show one, TLS 1.3 only, with the provider given explicitly (a process default is a global
//! that another crate's feature can make ambiguous).
//!
//! There is **no session resumption**, and so no 0-RTT. A resumed session skips the verification of the certificate: a
//! node whose certificate has expired, or whose CA was taken out, could come back for as long as it holds a ticket. A
//! whole handshake costs 0.4 ms of CPU and links live for hours; there is nothing to save.
//!
//! Files are polled rather than watched: Kubernetes swaps symbolic links, SPIRE renames, people copy, and inotify sees
//! each of these differently and none of them on a network file system. What is read is taken into use only if it
//! would serve; until then the old certificates stay, so that a half-copied pair breaks nothing.
//! New certificates are for new handshakes: links that are up were proven when they were made, and live on.

mod files;
mod spiffe;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::version::TLS13;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::config::settings::MeshSecurity;
use crate::link::endpoint;
use crate::model::NodeId;
use crate::runtime::clock::unix_now;
use files::{Contents, Files};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
use verify::{Anybody, Current};

/// The application protocol of links (ALPN), with its version.
const ALPN: &[u8] = b"spanmesh/1";
/// What `quinn::Endpoint::connect` is told as server name. Peers are known by SPIFFE id; this is neither sent nor checked.
pub const SERVER_NAME: &str = "spanmesh";

/// A node's certificates: rustls configurations for both directions, over files that are read again as they change.
pub struct Identities {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    /// `None` with `insecure_dev`.
    mtls: Option<Mtls>,
    /// Counts the certificates taken into use after the first.
    rotations: watch::Sender<u64>,
}

struct Mtls {
    me: NodeId,
    files: Files,
    reload_interval: Duration,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    /// What was read for `current`. Held while the files are read, which may be slow: never by `status`.
    in_use: Mutex<Contents>,
    /// What the last look found wrong, and in which contents, so that it is logged once.
    complaint: Mutex<Option<(Option<Contents>, String)>>,
    failures_total: AtomicU64,
}

/// Why there is no usable certificate, or no usable peer.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Our own files, with the file and the mend.
    #[error("{0}")]
    Unusable(String),
    /// The peer shows no name: close the connection.
    #[error("the peer names no node of this mesh: {0}")]
    Peer(String),
}

/// For the status page.
#[derive(Clone, Debug, Serialize)]
pub struct TlsStatus {
    /// False: `insecure_dev`, anybody may join as anybody.
    pub mutual_tls: bool,
    /// Our SPIFFE id.
    pub identity: Option<String>,
    /// End of the certificate in use, Unix seconds.
    pub expires_at: Option<u64>,
    pub rotations_total: u64,
    /// Looks at the files that found something unusable.
    pub reload_failures_total: u64,
    /// What is wrong with the files now; the certificates of before are still in use.
    pub reload_error: Option<String>,
}

impl Identities {
    /// Reads the files once; fails if they cannot serve `me`.
    pub fn load(security: &MeshSecurity, me: &NodeId) -> Result<Arc<Identities>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (server, client, mtls) = match security {
            MeshSecurity::Mtls { ca_file, cert_file, key_file, reload_interval } => {
                let files = Files { ca: ca_file.clone(), cert: cert_file.clone(), key: key_file.clone() };
                let contents = files.read()?;
                let trust = files.check(&contents, me, now(), &provider)?;
                warn_of_exposed_key(&files);
                let current = Arc::new(Current::new(trust, provider.signature_verification_algorithms));
                let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_protocol_versions(&[&TLS13])
                    .map_err(unexpected)?
                    .with_client_cert_verifier(Arc::clone(&current) as _)
                    .with_cert_resolver(Arc::clone(&current) as _);
                let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                    .with_protocol_versions(&[&TLS13])
                    .map_err(unexpected)?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(&current) as _)
                    .with_client_cert_resolver(Arc::clone(&current) as _);
                let mtls = Mtls {
                    me: me.clone(),
                    files,
                    reload_interval: *reload_interval,
                    provider,
                    current,
                    in_use: Mutex::new(contents),
                    complaint: Mutex::default(),
                    failures_total: AtomicU64::new(0),
                };
                (server, client, Some(mtls))
            }
            MeshSecurity::InsecureDev => {
                let (server, client) = insecure(&provider)?;
                (server, client, None)
            }
        };
        Ok(Arc::new(Identities {
            server: Arc::new(QuicServerConfig::try_from(harden_server(server)).map_err(unexpected)?),
            client: Arc::new(QuicClientConfig::try_from(harden_client(client)).map_err(unexpected)?),
            mtls,
            rotations: watch::Sender::new(0),
        }))
    }

    /// Watches the files until the task is aborted; a bad new file keeps the old pair and is logged.
    pub async fn reload_forever(self: Arc<Self>) {
        let Some(mtls) = &self.mtls else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(mtls.reload_interval.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            // Files may be on a network; the look must not hold up a worker.
            if let Err(error) = tokio::task::spawn_blocking(move || this.reload()).await {
                tracing::error!(%error, "looking at the certificate files failed");
            }
        }
    }

    /// Looks at the files now. True if new certificates were taken into use; an error leaves the old ones in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(mtls) = &self.mtls else { return Ok(false) };
        let rotated = mtls.reload();
        if let Ok(true) = rotated {
            self.rotations.send_modify(|rotations| *rotations += 1);
        }
        rotated
    }

    /// The accepting side, for [`endpoint::bind`], which adds the transport limits.
    pub fn server_config(&self) -> quinn::ServerConfig {
        quinn::ServerConfig::with_crypto(Arc::clone(&self.server) as _)
    }

    /// The dialling side, with the transport limits.
    pub fn client_config(&self) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(Arc::clone(&self.client) as _);
        config.transport_config(Arc::new(endpoint::transport()));
        config
    }

    /// The node that the peer's certificate names. `None` with `insecure_dev`, where the hello is believed.
    pub fn peer_of(&self, connection: &quinn::Connection) -> Result<Option<NodeId>, TlsError> {
        if self.mtls.is_none() {
            return Ok(None);
        }
        let identity = connection.peer_identity().ok_or_else(|| TlsError::Peer("no certificate".to_owned()))?;
        let chain = identity
            .downcast::<Vec<CertificateDer<'static>>>()
            .map_err(|_| TlsError::Peer("an identity that is no certificate".to_owned()))?;
        let leaf = chain.first().ok_or_else(|| TlsError::Peer("an empty chain".to_owned()))?;
        let id = SpiffeId::of_certificate(leaf).map_err(|error| TlsError::Peer(error.to_string()))?;
        Ok(Some(id.node))
    }

    /// Expiry of the certificate in use, Unix seconds.
    pub fn expires_at(&self) -> Option<u64> {
        self.mtls.as_ref().map(|mtls| mtls.current.get().not_after)
    }

    /// Resolves when new certificates are taken into use after its first poll.
    #[cfg(test)]
    async fn rotated(&self) {
        self.rotations.subscribe().changed().await.unwrap();
    }

    pub fn status(&self) -> TlsStatus {
        let trust = self.mtls.as_ref().map(|mtls| mtls.current.get());
        TlsStatus {
            mutual_tls: self.mtls.is_some(),
            identity: trust.as_ref().map(|trust| trust.id.to_string()),
            expires_at: trust.as_ref().map(|trust| trust.not_after),
            rotations_total: *self.rotations.borrow(),
            reload_failures_total: self.mtls.as_ref().map_or(0, |mtls| mtls.failures_total.load(Relaxed)),
            reload_error: self
                .mtls
                .as_ref()
                .and_then(|mtls| locked(&mtls.complaint).as_ref().map(|(_, why)| why.clone())),
        }
    }
}

impl Mtls {
    fn reload(&self) -> Result<bool, TlsError> {
        let mut in_use = locked(&self.in_use);
        let contents = match self.files.read() {
            Ok(contents) if contents == *in_use => {
                *locked(&self.complaint) = None;
                return Ok(false);
            }
            Ok(contents) => contents,
            Err(error) => return Err(self.complain(None, error)),
        };
        // Also when these contents were refused before: a certificate may become valid without a change of the file.
        match self.files.check(&contents, &self.me, now(), &self.provider) {
            Ok(trust) => {
                tracing::info!(identity = %trust.id, expires_at = trust.not_after, "new mesh certificates are in use");
                warn_of_exposed_key(&self.files);
                self.current.replace(trust);
                *in_use = contents;
                *locked(&self.complaint) = None;
                Ok(true)
            }
            Err(error) => Err(self.complain(Some(contents), error)),
        }
    }

    fn complain(&self, contents: Option<Contents>, error: TlsError) -> TlsError {
        self.failures_total.fetch_add(1, Relaxed);
        let new = Some((contents, error.to_string()));
        let mut complaint = locked(&self.complaint);
        if *complaint != new {
            tracing::warn!(%error, expires_at = self.current.get().not_after,
                "new mesh certificates cannot be used; those of before stay in use");
            *complaint = new;
        }
        error
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A throw-away certificate for ourselves, and no question to anybody else.
fn insecure(provider: &Arc<CryptoProvider>) -> Result<(rustls::ServerConfig, rustls::ClientConfig), TlsError> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).map_err(unexpected)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unexpected)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(unexpected)?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unexpected)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider.signature_verification_algorithms)))
        .with_no_client_auth();
    Ok((server, client))
}

fn harden_server(mut config: rustls::ServerConfig) -> rustls::ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

fn harden_client(mut config: rustls::ClientConfig) -> rustls::ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

fn warn_of_exposed_key(files: &Files) {
    if files.key_is_exposed() {
        tracing::warn!(file = %files.key.display(), "any user of this machine can read the mesh key: chmod o-rwx it");
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_nanos(unix_now().0))
}

/// What only a fault of ours or of the crypto library can cause.
fn unexpected(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(format!("TLS cannot be set up: {error}"))
}
