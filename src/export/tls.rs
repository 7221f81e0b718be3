//! TLS towards a backend: ordinary server authentication, and a client certificate if one is configured.
//!
//! The provider is named (ring) and not taken from the process, so that a library which installs another one changes
//! nothing here.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::StartError;
use crate::config::settings::ClientTlsSettings;

/// The configuration for `https` backends; ALPN is left to the connector.
pub(super) fn client_config(settings: &ClientTlsSettings) -> Result<ClientConfig, StartError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Tls(error.to_string()))?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
    } else {
        let roots = Arc::new(roots(settings.ca_file.as_deref())?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| StartError::Tls(error.to_string()))?;
        builder.with_webpki_verifier(verifier)
    };
    match (&settings.cert_file, &settings.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| unreadable(key_file, &error))?;
            builder
                .with_client_auth_cert(certificates(cert_file)?, key)
                .map_err(|error| StartError::File { path: cert_file.clone(), reason: error.to_string() })
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// For backends that are spoken to without TLS: trusts nobody, reads no file.
pub(super) fn unused() -> Result<ClientConfig, StartError> {
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Tls(error.to_string()))?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, StartError> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                store
                    .add(certificate)
                    .map_err(|error| StartError::File { path: path.to_owned(), reason: error.to_string() })?;
            }
        }
        None => {
            // A bundle in which one certificate does not parse is still the system's bundle.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(StartError::Tls("the system has no root certificates; set tls.ca_file".to_owned()));
            }
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<Result<_, _>>())
        .map_err(|error| unreadable(path, &error))?;
    if all.is_empty() {
        return Err(StartError::File { path: path.to_owned(), reason: "holds no PEM certificate".to_owned() });
    }
    Ok(all)
}

fn unreadable(path: &Path, error: &rustls_pki_types::pem::Error) -> StartError {
    StartError::File { path: path.to_owned(), reason: error.to_string() }
}

/// `insecure_skip_verify`: whoever answers is believed. Signatures are still checked, so the one who shows a certificate
/// holds its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
