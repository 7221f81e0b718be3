//! A mesh's own certificate authority: enough for trials, the demo and tests, and for small meshes without cert-manager.
//!
//! One self-signed CA per mesh signs one leaf per node. The CA has path length 0, so that a stolen leaf cannot become
//! another CA; a leaf carries exactly one URI name, the node's SPIFFE id, and can do nothing but sign handshakes. Keys are
//! ECDSA P-256: every TLS stack has it, and a handshake with it costs 0.4 ms. RSA was not offered since it would be slower for
//! no gain. URI name constraints in the CA would be the natural fence, but TLS verifiers refuse them, so the fence is
//! the check of the trust domain at each node (`link::tls`).
//!
//! Time is an argument. Certificates begin five minutes before it: clocks of nodes differ.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::link::tls::{SpiffeError, SpiffeId, TrustDomain};
use crate::model::{NodeId, UnixNanos};

/// How long before `now` a certificate begins, for peers whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(300);
/// 9999-12-31T23:59:59Z, the last second that X.509 can write.
const LAST_SECOND: u64 = 253_402_300_799;
/// Longest common name (X.520 `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// Why a certificate could not be made.
#[derive(Debug, Error)]
pub enum CertsError {
    #[error(transparent)]
    TrustDomain(#[from] SpiffeError),
    #[error("the file is not the certificate of a mesh CA made by `spanmesh certs init`: {0}")]
    NotAnAuthority(String),
    #[error("the CA's certificate has expired; make a new one with `spanmesh certs init`")]
    AuthorityExpired,
    #[error("the validity ends after the year 9999, or is zero")]
    Validity,
    #[error("{0:?} cannot stand in a certificate as a DNS name")]
    DnsName(String),
    #[error("cannot make the certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// A node's certificate and its key.
pub struct Issued {
    pub cert_pem: String,
    /// PKCS#8. Secret: mode 0600 wherever it is written.
    pub key_pem: String,
    /// End of validity, Unix seconds: what was asked for, or the CA's own end if that is sooner.
    pub not_after: u64,
}

/// A mesh's CA with its key.
pub struct Authority {
    trust_domain: TrustDomain,
    cert_pem: String,
    not_after: u64,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new CA for `trust_domain`.
    pub fn create(trust_domain: &str, now: UnixNanos, valid_for: Duration) -> Result<Authority, CertsError> {
        let trust_domain = TrustDomain::new(trust_domain)?;
        let uri = format!("spiffe://{trust_domain}");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = set_validity(&mut params, now, valid_for, LAST_SECOND)?;
        let key = KeyPair::generate()?;
        // A name of its own for each CA: a certificate of another one is then "unknown issuer", not "bad signature".
        let key_id: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = name(&format!("CA {key_id} of {trust_domain}"));
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Authority { trust_domain, cert_pem, not_after, issuer: Issuer::new(params, key) })
    }

    /// Takes up a CA that [`Authority::create`] made, from its two PEM texts. The key must be the certificate's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Authority, CertsError> {
        let wrong = |error: &dyn std::fmt::Display| CertsError::NotAnAuthority(error.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|error| wrong(&error))?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|error| wrong(&error))?;
        if !certificate.is_ca() {
            return Err(wrong(&"cA is false"));
        }
        let key = KeyPair::from_pem(key_pem).map_err(|error| wrong(&format_args!("its key: {error}")))?;
        if certificate.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(wrong(&"the key belongs to another certificate"));
        }
        let names = certificate.subject_alternative_name().map_err(|error| wrong(&error))?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        });
        let trust_domain = TrustDomain::new(uris.next().ok_or_else(|| wrong(&"it names no trust domain"))?)?;
        Ok(Authority {
            trust_domain,
            cert_pem: cert_pem.to_owned(),
            not_after: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
            issuer: Issuer::from_ca_cert_pem(cert_pem, key)?,
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA's certificate, for every node's `ca_file`.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The CA's key, PKCS#8. Who has it can name nodes.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// End of the CA's validity, Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// A new key and a certificate for one node. `also` adds DNS names or IP addresses, for other uses of the certificate.
    pub fn issue(
        &self,
        node: &NodeId,
        also: &[String],
        now: UnixNanos,
        valid_for: Duration,
    ) -> Result<Issued, CertsError> {
        let mut params = self.leaf(&SpiffeId { trust_domain: self.trust_domain.clone(), node: node.clone() })?;
        for name in also {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|_| CertsError::DnsName(name.to_owned()))?),
            });
        }
        self.sign(params, now, valid_for)
    }

    /// What is common to all leaves, before validity.
    pub(crate) fn leaf(&self, id: &SpiffeId) -> Result<CertificateParams, CertsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&id.node.to_string());
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Signs whatever `params` say, with a new key: tests make wrong certificates with it.
    pub(crate) fn sign(
        &self,
        mut params: CertificateParams,
        now: UnixNanos,
        valid_for: Duration,
    ) -> Result<Issued, CertsError> {
        if now.0 / 1_000_000_000 >= self.not_after {
            return Err(CertsError::AuthorityExpired);
        }
        let not_after = set_validity(&mut params, now, valid_for, self.not_after)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem(), not_after })
    }
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "spanmesh");
    name.push(DnType::CommonName, common_name.chars().take(MAX_COMMON_NAME).collect::<String>());
    name
}

/// Sets both ends of the validity, the later one at most `latest`; answers with it, in Unix seconds.
fn set_validity(
    params: &mut CertificateParams,
    now: UnixNanos,
    valid_for: Duration,
    latest: u64,
) -> Result<u64, CertsError> {
    let now = now.0 / 1_000_000_000;
    let end = now.checked_add(valid_for.as_secs()).filter(|end| *end <= LAST_SECOND).ok_or(CertsError::Validity)?;
    let end = end.min(latest);
    if end <= now {
        return Err(CertsError::Validity);
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATED.as_secs()));
    params.not_after = epoch + Duration::from_secs(end);
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::unix_now;

    const DAY: Duration = Duration::from_secs(86_400);

    fn node() -> NodeId {
        "us-east-1/pod-0".parse().unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
    }

    #[test]
    fn a_leaf_names_its_node_and_can_only_sign_handshakes() {
        let ca = Authority::create("mesh.local", unix_now(), DAY).unwrap();
        let also = ["pod-0.mesh".to_owned(), "10.0.0.1".to_owned()];
        let issued = ca.issue(&node(), &also, unix_now(), DAY / 2).unwrap();
        let der = der(&issued.cert_pem);
        let id = SpiffeId::of_certificate(&der).unwrap();
        assert_eq!(id.to_string(), "spiffe://mesh.local/mesh/us-east-1/pod-0");
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert!(!leaf.is_ca());
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth && !extended.any);
        assert!(u64::try_from(leaf.validity().not_before.timestamp()).unwrap() < unix_now().0 / 1_000_000_000);
        assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
    }

    #[test]
    fn a_ca_may_sign_leaves_but_no_further_ca() {
        let ca = Authority::create("mesh.local", unix_now(), DAY).unwrap();
        let der = der(ca.cert_pem());
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint == Some(0));
        assert!(certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert_eq!(SpiffeId::of_certificate(&der), Err(SpiffeError::Authority));
    }

    #[test]
    fn a_ca_read_back_from_its_files_signs_for_the_same_trust_domain() {
        let made = Authority::create("prod.example", unix_now(), DAY).unwrap();
        let read = Authority::from_pem(made.cert_pem(), &made.key_pem()).unwrap();
        assert_eq!((read.trust_domain(), read.not_after()), (made.trust_domain(), made.not_after()));
        let leaf = read.issue(&node(), &[], unix_now(), DAY).unwrap();
        let leaf_der = der(&leaf.cert_pem);
        let (_, leaf) = X509Certificate::from_der(&leaf_der).unwrap();
        let ca_der = der(made.cert_pem());
        let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(leaf.validity().not_after <= ca.validity().not_after);
    }

    #[test]
    fn files_that_are_no_ca_are_refused_with_the_reason() {
        let ca = Authority::create("mesh.local", unix_now(), DAY).unwrap();
        let other = Authority::create("mesh.local", unix_now(), DAY).unwrap();
        let leaf = ca.issue(&node(), &[], unix_now(), DAY).unwrap();
        assert!(Authority::from_pem(&leaf.cert_pem, &leaf.key_pem).is_err());
        assert!(Authority::from_pem(ca.cert_pem(), &other.key_pem()).is_err());
        assert!(Authority::from_pem("", "").is_err());
    }

    #[test]
    fn a_validity_that_cannot_be_written_is_refused() {
        assert!(matches!(Authority::create("mesh.local", unix_now(), Duration::MAX), Err(CertsError::Validity)));
        assert!(matches!(Authority::create("mesh.local", unix_now(), Duration::ZERO), Err(CertsError::Validity)));
        assert!(matches!(Authority::create("Mesh Local", unix_now(), DAY), Err(CertsError::TrustDomain(_))));
        let ca = Authority::create("mesh.local", UnixNanos(0), DAY).unwrap();
        assert!(matches!(ca.issue(&node(), &[], unix_now(), DAY), Err(CertsError::AuthorityExpired)));
    }
}
