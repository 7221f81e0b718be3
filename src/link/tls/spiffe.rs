//! Names of nodes in certificates: `spiffe://<trust-domain>/mesh/<cluster>/<node>`.
//!
//! A node is what its certificate says, so this parser decides who may speak for whom. It follows the X.509-SVID rules:
//! exactly one URI SAN, no authority bits on a leaf, lower-case trust domain, no percent-encoding, ports, users, queries
//! or empty segments. Nothing is normalised: two spellings of one name are how one node becomes another. DNS and IP
//! names beside the URI are allowed and mean nothing here, since cert-manager and SPIRE like to add them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::model::ids::IdError;
use crate::model::{ClusterName, NodeId, NodeName};

/// Longest SPIFFE id in bytes (SPIFFE-ID §2.3).
const MAX_ID: usize = 2_048;
/// Longest trust domain in bytes (SPIFFE-ID §2.3).
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a certificate does not name a node of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpiffeError {
    #[error("the certificate is not X.509: {0}")]
    Malformed(String),
    #[error("it is a CA certificate; a node needs a leaf (cA false, no keyCertSign or cRLSign)")]
    Authority,
    #[error("it has {0} URI names; a node's certificate has exactly one, spiffe://TRUST-DOMAIN/mesh/CLUSTER/NODE")]
    UriCount(usize),
    #[error("{0:?} is not spiffe://TRUST-DOMAIN/mesh/CLUSTER/NODE")]
    Shape(String),
    #[error("a SPIFFE id has at most {MAX_ID} bytes, not {0}")]
    TooLong(usize),
    #[error("{0:?} is no trust domain: use 1 to {MAX_TRUST_DOMAIN} of a-z 0-9 . _ -")]
    TrustDomain(String),
    #[error(transparent)]
    Name(#[from] IdError),
}

/// The part before the path: which mesh's authorities may name a node. Lower case, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    pub fn new(value: &str) -> Result<TrustDomain, SpiffeError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if value.is_empty() || value.len() > MAX_TRUST_DOMAIN || !value.bytes().all(legal) {
            return Err(SpiffeError::TrustDomain(shown(value)));
        }
        Ok(TrustDomain(value.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's whole name, as its certificate carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpiffeId {
    pub trust_domain: TrustDomain,
    pub node: NodeId,
}

impl SpiffeId {
    /// The node that a leaf certificate (DER) names.
    pub fn of_certificate(der: &[u8]) -> Result<SpiffeId, SpiffeError> {
        let malformed = |error: &dyn fmt::Display| SpiffeError::Malformed(error.to_string());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes after its end"));
        }
        let constraints = certificate.basic_constraints().map_err(|error| malformed(&error))?;
        let usage = certificate.key_usage().map_err(|error| malformed(&error))?;
        let signs = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
        if signs || constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(SpiffeError::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
        let mut uris = Vec::new();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => return Err(malformed(&"an alternative name that cannot be read")),
                _ => {}
            }
        }
        match uris[..] {
            [uri] => uri.parse(),
            _ => Err(SpiffeError::UriCount(uris.len())),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/mesh/{}", self.trust_domain, self.node)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<SpiffeId, SpiffeError> {
        if uri.len() > MAX_ID {
            return Err(SpiffeError::TooLong(uri.len()));
        }
        let shape = || SpiffeError::Shape(shown(uri));
        let mut parts = uri.strip_prefix("spiffe://").ok_or_else(shape)?.split('/');
        let (Some(trust_domain), Some("mesh"), Some(cluster), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        Ok(SpiffeId {
            trust_domain: TrustDomain::new(trust_domain)?,
            node: NodeId { cluster: ClusterName::new(cluster)?, node: NodeName::new(node)? },
        })
    }
}

/// As much of a foreign text as an error may repeat.
fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_reads_back_what_it_shows() {
        let id: SpiffeId = "spiffe://mesh.local/mesh/us-east-1/pod-0".parse().unwrap();
        assert_eq!(id.trust_domain.as_str(), "mesh.local");
        assert_eq!(id.node.to_string(), "us-east-1/pod-0");
        assert_eq!(id.to_string(), "spiffe://mesh.local/mesh/us-east-1/pod-0");
    }

    #[test]
    fn another_spelling_of_a_name_is_another_name_and_mostly_none() {
        for bad in [
            "",
            "mesh.local/mesh/c/n",
            "SPIFFE://mesh.local/mesh/c/n",
            "https://mesh.local/mesh/c/n",
            "spiffe://mesh.local",
            "spiffe://mesh.local/mesh/c",
            "spiffe://mesh.local/mesh/c/n/",
            "spiffe://mesh.local/mesh/c/n/x",
            "spiffe://mesh.local//mesh/c/n",
            "spiffe://mesh.local/other/c/n",
            "spiffe://mesh.local/mesh//n",
            "spiffe://mesh.local/mesh/../n",
            "spiffe://mesh.local/mesh/c/%6e",
            "spiffe://mesh.local/mesh/c/n?x=1",
            "spiffe://mesh.local/mesh/c/n#x",
            "spiffe://Mesh.local/mesh/c/n",
            "spiffe://mesh.local:443/mesh/c/n",
            "spiffe://user@mesh.local/mesh/c/n",
            "spiffe:///mesh/c/n",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        let long = format!("spiffe://mesh.local/mesh/c/{}", "n".repeat(3_000));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeError::TooLong(long.len())));
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody() {
        for bytes in [&b""[..], b"\x30\x82\xff\xff", &[0; 64]] {
            assert!(matches!(SpiffeId::of_certificate(bytes), Err(SpiffeError::Malformed(_))));
        }
    }
}
