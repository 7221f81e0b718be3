//! From three PEM files to something a handshake can use, checked so that a mistake shows here and not at a peer.
//!
//! A wrong file would otherwise show as "bad certificate" in the log of *another* node. So the pair is held against
//! everything that a peer will hold against it: the name, the chain to our own CA file, the dates, both purposes.
//! Every error names the file and the mend. Nothing of a key file is ever repeated in an error.

use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{SpiffeId, TlsError};
use crate::model::NodeId;

/// Most bytes of one file: a bundle of all public CAs has a quarter of it.
const MAX_FILE: u64 = 1 << 20;

/// Where the certificates are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// What the files hold, to see changes. Without `Debug`: there is a key in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What handshakes use: our certificate with its key, and whom we believe.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) id: SpiffeId,
    /// End of our certificate's validity, Unix seconds.
    pub(super) not_after: u64,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

impl Files {
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents { ca: read(&self.ca)?, cert: read(&self.cert)?, key: read(&self.key)? })
    }

    /// Whether others than owner and group may read the key.
    #[cfg(unix)]
    pub(super) fn key_is_exposed(&self) -> bool {
        use std::os::unix::fs::PermissionsExt;
        // Group readable is how Kubernetes gives secrets to a non-root user.
        std::fs::metadata(&self.key).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
    }

    #[cfg(not(unix))]
    pub(super) fn key_is_exposed(&self) -> bool {
        false
    }

    /// Checks `contents` as the certificates of `me`, as a peer would at `now`.
    pub(super) fn check(
        &self,
        contents: &Contents,
        me: &NodeId,
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Trust, TlsError> {
        let roots = Arc::new(self.roots(&contents.ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
            .build()
            .map_err(|error| unusable(&self.ca, &error))?;
        let chain = certificates(&self.cert, &contents.cert)?;
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| unusable(&self.cert, &"it has no certificate"))?;
        let id = SpiffeId::of_certificate(leaf).map_err(|error| unusable(&self.cert, &error))?;
        if id.node != *me {
            return Err(unusable(
                &self.cert,
                &format_args!(
                    "it names {}, and the configuration says {me}: set cluster and node to that, or issue a certificate \
                     for {me} (spanmesh certs issue --cluster {} --node {})",
                    id.node, me.cluster, me.node
                ),
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| unusable(&self.key, &"it has no private key in PEM that can be read"))?;
        let own = CertifiedKey::from_der(chain.clone(), key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => unusable(
                &self.key,
                &format_args!(
                    "it is not the key of the certificate in {}: copy the two files as a pair",
                    self.cert.display()
                ),
            ),
            _ => unusable(&self.key, &"its key is of a kind that cannot sign handshakes: use ECDSA P-256"),
        })?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| unusable(&self.cert, &error))?;
        let validity = parsed.validity();
        let end_entity = ParsedCertificate::try_from(leaf).map_err(|error| unusable(&self.cert, &error))?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&end_entity, &roots, intermediates, now, algorithms)
            .and_then(|()| clients.verify_client_cert(leaf, intermediates, now).map(|_| ()))
            .map_err(|error| unusable(&self.cert, &self.refusal(&error, validity)))?;
        let not_after = u64::try_from(validity.not_after.timestamp()).unwrap_or(0);
        Ok(Trust { own: Arc::new(own), id, not_after, roots, clients })
    }

    fn roots(&self, pem: &[u8]) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for (nth, certificate) in certificates(&self.ca, pem)?.into_iter().enumerate() {
            let wrong = |why: &dyn Display| unusable(&self.ca, &format_args!("certificate {} in it {why}", nth + 1));
            // A trust anchor's own fields are never verified later, so a leaf here would be a CA.
            let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| wrong(&error))?;
            if !parsed.is_ca() {
                return Err(wrong(&"is not a CA: the file takes the mesh's CA certificates, not those of nodes"));
            }
            roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
        }
        Ok(roots)
    }

    /// In words, why a peer that trusts our CA file would refuse our own certificate.
    fn refusal(&self, error: &rustls::Error, validity: &x509_parser::certificate::Validity) -> String {
        use CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else { return error.to_string() };
        match error {
            E::Expired | E::ExpiredContext { .. } => {
                format!(
                    "the certificate or one above it has expired (its own end: {}): issue a new one",
                    validity.not_after
                )
            }
            E::NotValidYet | E::NotValidYetContext { .. } => {
                format!("the certificate is not valid before {}: check this machine's clock", validity.not_before)
            }
            E::UnknownIssuer | E::BadSignature => format!(
                "no CA in {} has signed it: take the CA certificate that it was issued with (while CAs change, the file \
                 holds both)",
                self.ca.display()
            ),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
                "its extended key usage must allow both serverAuth and clientAuth: nodes dial and are dialled"
                    .to_owned()
            }
            other => format!("{other:?}"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            unusable(path, &"there is no such file: correct the path, or make trial certificates with `spanmesh certs`")
        }
        std::io::ErrorKind::PermissionDenied => unusable(path, &"this process may not read it: check owner and mode"),
        _ => unusable(path, &error),
    })?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unusable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unusable(path, &"it has more than 1 MiB: it is not a certificate file"));
    }
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, PemError>>();
    let found = found.map_err(|_| unusable(path, &"its PEM is damaged"))?;
    if found.is_empty() {
        return Err(unusable(path, &"it has no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(found)
}

fn unusable(path: &Path, why: &dyn Display) -> TlsError {
    TlsError::Unusable(format!("{}: {why}", path.display()))
}
