//! Certificates of a test's own CA, as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spanmesh::certs::Authority;
use spanmesh::config::settings::MeshSecurity;
use spanmesh::link::tls::Identities;
use spanmesh::model::{NodeId, UnixNanos};
use spanmesh::runtime::clock::unix_now;

pub const DAY: Duration = Duration::from_secs(86_400);

pub struct Certificates {
    directory: PathBuf,
    authority: Authority,
}

impl Certificates {
    /// A new CA, whose certificate is `ca.pem` in the directory.
    pub fn in_directory(directory: &Path) -> Certificates {
        Certificates::named(directory, "ca")
    }

    /// A new CA whose files have names of their own, for a second one in the same directory.
    pub fn named(directory: &Path, name: &str) -> Certificates {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let authority = Authority::create("mesh.test", unix_now(), DAY).unwrap();
        std::fs::write(directory.join("ca.pem"), authority.cert_pem()).unwrap();
        Certificates { directory, authority }
    }

    /// Issues a certificate as for a node, for a peer that a test makes by hand.
    pub fn identities(&self, id: &NodeId) -> Arc<Identities> {
        self.section(id);
        let security = MeshSecurity::Mtls {
            ca_file: self.directory.join("ca.pem"),
            cert_file: self.file(id, "pem"),
            key_file: self.file(id, "key"),
            reload_interval: DAY,
        };
        Identities::load(&security, id).unwrap()
    }

    /// Issues a certificate that is good for a day from now and answers the `tls:` value that uses it.
    pub fn section(&self, id: &NodeId) -> String {
        self.section_from(id, unix_now(), DAY)
    }

    /// The same with a validity of its own.
    pub fn section_from(&self, id: &NodeId, not_before: UnixNanos, valid_for: Duration) -> String {
        let issued = self.authority.issue(id, &[], not_before, valid_for).unwrap();
        let (cert, key) = (self.file(id, "pem"), self.file(id, "key"));
        std::fs::write(&cert, issued.cert_pem).unwrap();
        std::fs::write(&key, issued.key_pem).unwrap();
        let ca = self.directory.join("ca.pem");
        format!(
            "{{ca_file: {}, cert_file: {}, key_file: {}, reload_interval: 1s}}",
            ca.display(),
            cert.display(),
            key.display()
        )
    }

    fn file(&self, id: &NodeId, extension: &str) -> PathBuf {
        self.directory.join(format!("{}-{}.{extension}", id.cluster, id.node))
    }
}
