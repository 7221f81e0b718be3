//! Whom a handshake believes: webpki's verification of the chain, then the SPIFFE rules in place of a DNS name.
//!
//! One object serves all four roles that rustls asks for (both verifiers, both certificate resolvers) and looks up the
//! current [`Trust`] each time, so that a new file is used by the next handshake of an endpoint that has been
//! running for months. The chain, dates, signatures and purposes are webpki's; only the name is ours. Every node
//! presents a certificate and every node verifies one, whichever side dialled.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
};
use thiserror::Error as ThisError;

use super::files::Trust;
use super::{SpiffeError, SpiffeId, TrustDomain};

/// Why a peer with a good chain is refused.
#[derive(ThisError)]
enum PeerRefused {
    #[error("the peer's certificate is refused: {0}")]
    Name(#[from] SpiffeError),
    #[error("the peer is {peer}, and this mesh is {ours}")]
    TrustDomain { peer: SpiffeId, ours: TrustDomain },
}

// rustls shows the errors of a verifier with `Debug`, and that text is what the log has.
impl fmt::Debug for PeerRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The certificates in use, as rustls wants them.
#[derive(Debug)]
pub(super) struct Current {
    trust: ArcSwap<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Current {
    pub(super) fn new(trust: Trust, algorithms: WebPkiSupportedAlgorithms) -> Current {
        Current { trust: ArcSwap::from_pointee(trust), algorithms }
    }

    pub(super) fn get(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    pub(super) fn replace(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
    }
}

/// The peer's name must be one of our trust domain. Which node it is, is for the caller to compare with the hello.
fn check_name(peer: &CertificateDer<'_>, trust: &Trust) -> Result<(), Error> {
    let refused = |why: PeerRefused| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))));
    let peer = SpiffeId::of_certificate(peer).map_err(|error| refused(error.into()))?;
    let ours = &trust.id.trust_domain;
    if peer.trust_domain != *ours {
        return Err(refused(PeerRefused::TrustDomain { peer, ours: ours.clone() }));
    }
    Ok(())
}

impl ServerCertVerifier for Current {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.trust.load();
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &trust.roots, intermediates, now, self.algorithms.all)?;
        check_name(end_entity, &trust)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Current {
    /// No hints: a node has one certificate, and strangers need not learn our CA's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.trust.load();
        let verified = trust.clients.verify_client_cert(end_entity, intermediates, now)?;
        check_name(end_entity, &trust)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.trust.load().own))
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.trust.load().own))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// `insecure_dev`: any server is believed, if only it holds the key that it shows.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
