//! Identities: of traces and spans (W3C Trace Context), and of the nodes of the mesh.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// A W3C trace id: 16 bytes, not all zero once it has passed the walker. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

/// A W3C span id: 8 bytes. All zero stands for "none" in a parent field. Shown as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }
}

impl SpanId {
    pub const NONE: SpanId = SpanId([0; 8]);

    pub fn is_zero(self) -> bool {
        self.0 == [0; 8]
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("a trace id is 32 hex digits, not {0:?}")]
    TraceId(String),
    #[error("a span id is 16 hex digits, not {0:?}")]
    SpanId(String),
    #[error("{what} {value:?}: use 1 to {max} of the letters a-z A-Z 0-9 . _ -, and not only dots")]
    Name { what: &'static str, value: String, max: usize },
    #[error("a node id is CLUSTER/NODE, not {0:?}")]
    NodeId(String),
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

macro_rules! shown_as_hex {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }
    )*};
}
shown_as_hex!(TraceId, SpanId);

macro_rules! serde_as_hex {
    ($($id:ty),*) => {$(
        impl serde::Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_hex!(TraceId, SpanId);

impl FromStr for TraceId {
    type Err = IdError;

    /// Reads 32 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::TraceId(text.chars().take(64).collect());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|n| TraceId(n.to_be_bytes())).map_err(|_| wrong())
    }
}

impl FromStr for SpanId {
    type Err = IdError;

    /// Reads 16 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::SpanId(text.chars().take(64).collect());
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(|n| SpanId(n.to_be_bytes())).map_err(|_| wrong())
    }
}

/// Longest name of a cluster or node: together with the trust domain a SPIFFE id stays far below its 2,048 bytes.
pub const MAX_NAME: usize = 128;

fn check_name(what: &'static str, value: &str) -> Result<(), IdError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // A SPIFFE path segment: these characters, never "." or "..".
    if value.is_empty() || value.len() > MAX_NAME || !value.bytes().all(legal) || value.bytes().all(|b| b == b'.') {
        let value = value.chars().take(MAX_NAME).collect();
        return Err(IdError::Name { what, value, max: MAX_NAME });
    }
    Ok(())
}

/// Name of the place a node runs in. A legal SPIFFE path segment of at most [`MAX_NAME`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

/// Name of a node within its cluster, stable over restarts. Same shape as [`ClusterName`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

macro_rules! name {
    ($name:ty, $what:literal) => {
        impl $name {
            pub fn new(value: &str) -> Result<Self, IdError> {
                check_name($what, value)?;
                Ok(Self(value.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
name!(ClusterName, "cluster name");
name!(NodeName, "node name");

/// Who a node is in the whole mesh: `cluster/node`. What the ring hashes and certificates name; never an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub cluster: ClusterName,
    pub node: NodeName,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.node)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (cluster, node) = text.split_once('/').ok_or_else(|| IdError::NodeId(text.chars().take(300).collect()))?;
        Ok(NodeId { cluster: ClusterName::new(cluster)?, node: NodeName::new(node)? })
    }
}

/// One run of a node: wall-clock nanoseconds at its start, so that a later run of the same node compares greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BootId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_reads_back_what_it_shows_in_either_case() {
        let id: TraceId = "4BF92F3577B34DA6A3CE929D0E0E4736".parse().unwrap();
        assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!("4bf92f".parse::<TraceId>().is_err());
        assert!("+bf92f3577b34da6a3ce929d0e0e4736".parse::<TraceId>().is_err());
    }

    #[test]
    fn a_name_that_could_not_stand_in_a_spiffe_path_is_refused() {
        for bad in ["", ".", "..", "a/b", "ü", "a b", &"x".repeat(MAX_NAME + 1)] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!("us-east-1/pod-0".parse::<NodeId>().unwrap().to_string(), "us-east-1/pod-0");
        assert!("us-east-1".parse::<NodeId>().is_err());
    }
}
