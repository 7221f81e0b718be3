//! Real handshakes between real endpoints on loopback.

use super::*;
use crate::certs::{Authority, Issued};
use crate::link::endpoint;
use crate::model::UnixNanos;
use quinn::{Connection, ConnectionError, Endpoint};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(10);

fn days_from_now(days: i64) -> UnixNanos {
    let now = i64::try_from(unix_now().0).unwrap();
    UnixNanos(u64::try_from(now + days * 86_400 * 1_000_000_000).unwrap())
}

/// A CA that has been valid for 100 days.
fn authority(trust_domain: &str) -> Authority {
    Authority::create(trust_domain, days_from_now(-100), DAY * 3_650).unwrap()
}

fn node(name: &str) -> NodeId {
    format!("us-east-1/{name}").parse().unwrap()
}

fn issue(ca: &Authority, name: &str) -> Issued {
    ca.issue(&node(name), &[], unix_now(), DAY).unwrap()
}

fn leaf(ca: &Authority, name: &str) -> CertificateParams {
    ca.leaf(&SpiffeId { trust_domain: ca.trust_domain().clone(), node: node(name) }).unwrap()
}

/// A node's three files.
struct Place(TempDir);

impl Place {
    fn new(ca_pem: &str, pair: &Issued) -> Place {
        let place = Place(TempDir::new().unwrap());
        place.put_ca(ca_pem);
        place.put_pair(pair);
        place
    }

    fn put_ca(&self, pem: &str) {
        std::fs::write(self.0.path().join("ca.pem"), pem).unwrap();
    }

    fn put_pair(&self, pair: &Issued) {
        std::fs::write(self.0.path().join("cert.pem"), &pair.cert_pem).unwrap();
        std::fs::write(self.0.path().join("key.pem"), &pair.key_pem).unwrap();
    }

    fn security(&self) -> MeshSecurity {
        let at = |name: &str| Path::join(self.0.path(), name);
        MeshSecurity::Mtls {
            ca_file: at("ca.pem"),
            cert_file: at("cert.pem"),
            key_file: at("key.pem"),
            reload_interval: Duration::from_millis(20),
        }
    }

    fn load(&self, name: &str) -> Result<Arc<Identities>, TlsError> {
        Identities::load(&self.security(), &node(name))
    }

    fn complaint(&self, name: &str) -> String {
        self.load(name).err().expect("must be refused").to_string()
    }
}

fn good(ca: &Authority, name: &str) -> (Place, Arc<Identities>) {
    let place = Place::new(ca.cert_pem(), &issue(ca, name));
    let identities = place.load(name).unwrap();
    (place, identities)
}

fn listen(server: quinn::ServerConfig) -> Endpoint {
    endpoint::bind("127.0.0.1:0".parse().unwrap(), server).unwrap().0
}

/// One handshake: what each side makes of it. The dialler of TLS 1.3 is done before its certificate is looked at, so
/// its side also waits for what the other side opens or closes.
async fn handshake(
    dialler: &Endpoint,
    config: quinn::ClientConfig,
    listener: &Endpoint,
) -> (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>) {
    let dial = async {
        let connection = dialler.connect_with(config, listener.local_addr().unwrap(), SERVER_NAME).unwrap().await?;
        connection.accept_uni().await?;
        Ok(connection)
    };
    let accept = async {
        let connection = listener.accept().await.unwrap().await?;
        connection.open_uni().await?.write_all(b"in").await.unwrap();
        Ok(connection)
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.expect("a handshake that ends")
}

fn shown(result: &Result<Connection, ConnectionError>) -> String {
    result.as_ref().err().map_or("accepted".to_owned(), ToString::to_string)
}

/// A peer that shows `pair`, or nothing, and believes anybody.
fn rogue(pair: Option<&Issued>) -> (Option<quinn::ServerConfig>, quinn::ClientConfig) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pair = pair.map(|pair| {
        let chain = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap())
    });
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider.signature_verification_algorithms)));
    let client = match &pair {
        Some((chain, key)) => client.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
        None => client.with_no_client_auth(),
    };
    let server = pair.map(|(chain, key)| {
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let crypto = QuicServerConfig::try_from(harden_server(server)).unwrap();
        quinn::ServerConfig::with_crypto(Arc::new(crypto))
    });
    let crypto = QuicClientConfig::try_from(harden_client(client)).unwrap();
    (server, quinn::ClientConfig::new(Arc::new(crypto)))
}

/// `pair` is refused by a good node, whichever side dials. `why` must be in what the good node says.
async fn assert_refused(ca: &Authority, pair: Option<&Issued>, why: &str) {
    let (_place, good) = good(ca, "good");
    let here = listen(good.server_config());
    let (server, client) = rogue(pair);
    let there = listen(server.unwrap_or_else(|| good.server_config()));
    let (dialled, accepted) = handshake(&there, client, &here).await;
    assert!(dialled.is_err(), "a rogue dialler got in: {why}");
    assert!(shown(&accepted).contains(why), "accepting, {:?} should say {why:?}", shown(&accepted));
    if pair.is_some() {
        let (dialled, accepted) = handshake(&here, good.client_config(), &there).await;
        assert!(shown(&dialled).contains(why), "dialling, {:?} should say {why:?}", shown(&dialled));
        assert!(accepted.is_err(), "a rogue listener was believed: {why}");
    }
}

#[tokio::test]
async fn two_nodes_of_one_mesh_know_each_other_by_name() {
    let ca = authority("mesh.local");
    let ((_a, a), (_b, b)) = (good(&ca, "a"), good(&ca, "b"));
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    let (dialled, accepted) = handshake(&here, a.client_config(), &there).await;
    assert_eq!(a.peer_of(&dialled.unwrap()).unwrap(), Some(node("b")));
    assert_eq!(b.peer_of(&accepted.unwrap()).unwrap(), Some(node("a")));
    assert!(a.expires_at().unwrap() > unix_now().0 / 1_000_000_000);
    assert_eq!(a.status().identity.as_deref(), Some("spiffe://mesh.local/mesh/us-east-1/a"));
}

#[tokio::test]
async fn a_peer_that_does_not_prove_its_name_is_refused_whichever_side_dials() {
    let ca = authority("mesh.local");
    assert_refused(&ca, None, "sent no certificates").await;
    assert_refused(&ca, Some(&issue(&authority("mesh.local"), "x")), "UnknownIssuer").await;
    let expired = ca.issue(&node("x"), &[], days_from_now(-10), DAY).unwrap();
    assert_refused(&ca, Some(&expired), "xpired").await;
    let future = ca.issue(&node("x"), &[], days_from_now(10), DAY).unwrap();
    assert_refused(&ca, Some(&future), "not valid yet").await;
}

#[tokio::test]
async fn a_certificate_of_our_ca_that_breaks_the_spiffe_rules_is_refused() {
    let ca = authority("mesh.local");
    let refused = async |params: CertificateParams, why: &str| {
        let pair = ca.sign(params, unix_now(), DAY).unwrap();
        assert_refused(&ca, Some(&pair), why).await;
    };
    let foreign = SpiffeId { trust_domain: TrustDomain::new("other.example").unwrap(), node: node("x") };
    refused(ca.leaf(&foreign).unwrap(), "this mesh is mesh.local").await;

    let mut two = leaf(&ca, "x");
    two.subject_alt_names.push(SanType::URI("spiffe://mesh.local/mesh/us-east-1/y".try_into().unwrap()));
    refused(two, "2 URI names").await;

    let mut none = leaf(&ca, "x");
    none.subject_alt_names = vec![SanType::DnsName("x.mesh.local".try_into().unwrap())];
    refused(none, "0 URI names").await;

    let mut long = leaf(&ca, "x");
    long.subject_alt_names =
        vec![SanType::URI(format!("spiffe://mesh.local/mesh/c/{}", "n".repeat(2_100)).try_into().unwrap())];
    refused(long, "at most 2048 bytes").await;

    let mut elsewhere = leaf(&ca, "x");
    elsewhere.subject_alt_names = vec![SanType::URI("spiffe://mesh.local/ns/default/sa/x".try_into().unwrap())];
    refused(elsewhere, "is not spiffe://").await;

    let mut authority = leaf(&ca, "x");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused(authority, "CaUsedAsEndEntity").await;

    let mut signer = leaf(&ca, "x");
    signer.key_usages.push(KeyUsagePurpose::KeyCertSign);
    refused(signer, "it is a CA certificate").await;

    let mut for_code = leaf(&ca, "x");
    for_code.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    refused(for_code, "extended key usage").await;
}

#[tokio::test]
async fn another_protocol_on_our_port_is_refused() {
    let ca = authority("mesh.local");
    let (_place, a) = good(&ca, "a");
    let here = listen(a.server_config());
    let mut other = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&a.mtls.as_ref().unwrap().current) as _)
        .with_client_cert_resolver(Arc::clone(&a.mtls.as_ref().unwrap().current) as _);
    other.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(other).unwrap()));
    let (dialled, accepted) = handshake(&here, config, &here).await;
    assert!(dialled.is_err() && accepted.is_err());
}

#[tokio::test]
async fn no_session_can_be_resumed_so_every_link_verifies_and_0rtt_is_impossible() {
    let ca = authority("mesh.local");
    let ((_a, a), (_b, b)) = (good(&ca, "a"), good(&ca, "b"));
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    for _ in 0..2 {
        let (dialled, _accepted) = handshake(&here, a.client_config(), &there).await;
        dialled.unwrap();
        let again = here.connect_with(a.client_config(), there.local_addr().unwrap(), SERVER_NAME).unwrap();
        assert!(again.into_0rtt().is_err());
        // That attempt was begun too: take it from the queue.
        drop(tokio::time::timeout(PATIENCE, there.accept()).await.unwrap());
    }
}

#[tokio::test]
async fn without_security_links_are_encrypted_and_nobody_is_known() {
    let (a, b) = (
        Identities::load(&MeshSecurity::InsecureDev, &node("a")).unwrap(),
        Identities::load(&MeshSecurity::InsecureDev, &node("b")).unwrap(),
    );
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    let (dialled, accepted) = handshake(&here, a.client_config(), &there).await;
    assert_eq!(a.peer_of(&dialled.unwrap()).unwrap(), None);
    assert_eq!(b.peer_of(&accepted.unwrap()).unwrap(), None);
    assert!(a.expires_at().is_none() && !a.status().mutual_tls);

    let (_place, secure) = good(&authority("mesh.local"), "c");
    let third = listen(secure.server_config());
    let (dialled, accepted) = handshake(&here, a.client_config(), &third).await;
    assert!(dialled.is_err() && accepted.is_err(), "a node without certificates joined a mesh with");
    let (dialled, accepted) = handshake(&third, secure.client_config(), &here).await;
    assert!(dialled.is_err() && accepted.is_err(), "a node with certificates joined a mesh without");
}

#[tokio::test]
async fn new_files_are_used_by_new_handshakes_and_old_links_live() {
    let ca = authority("mesh.local");
    let ((place, a), (_b, b)) = (good(&ca, "a"), good(&ca, "b"));
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    let serial = |connection: &Connection| {
        let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        chain[0].to_vec()
    };
    // The configuration is made once, before the rotation: it must follow the files by itself.
    let config = b.client_config();
    let (old, old_accepted) = handshake(&there, config.clone(), &here).await;
    let (old, old_accepted) = (old.unwrap(), old_accepted.unwrap());

    let watching = tokio::spawn(Arc::clone(&a).reload_forever());
    let rotated = a.rotated();
    place.put_pair(&ca.issue(&node("a"), &[], unix_now(), DAY * 2).unwrap());
    tokio::time::timeout(PATIENCE, rotated).await.unwrap();
    let (new, _accepted) = handshake(&there, config, &here).await;
    let new = new.unwrap();
    assert_ne!(serial(&new), serial(&old), "the new handshake shows the new certificate");
    assert_eq!(b.peer_of(&new).unwrap(), Some(node("a")));
    assert!(a.expires_at().unwrap() > unix_now().0 / 1_000_000_000 + 86_400);

    old.open_uni().await.unwrap().write_all(b"still here").await.unwrap();
    tokio::time::timeout(PATIENCE, old_accepted.accept_uni()).await.unwrap().unwrap();
    watching.abort();
}

#[tokio::test]
async fn bad_new_files_keep_the_old_ones_in_use() {
    let ca = authority("mesh.local");
    let ((place, a), (_b, b)) = (good(&ca, "a"), good(&ca, "b"));
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    let expires_at = a.expires_at();
    let refused = |why: &str| {
        let error = a.reload().expect_err(why).to_string();
        assert!(error.contains(why), "{error:?} should say {why:?}");
        assert_eq!(a.expires_at(), expires_at);
        assert_eq!(a.status().reload_error.as_deref(), Some(&*error));
    };
    let next = issue(&ca, "a");
    std::fs::write(place.0.path().join("cert.pem"), &next.cert_pem).unwrap();
    refused("not the key of the certificate");
    std::fs::write(place.0.path().join("cert.pem"), "").unwrap();
    refused("no certificate in PEM");
    place.put_pair(&ca.issue(&node("a"), &[], days_from_now(-10), DAY).unwrap());
    refused("has expired");
    place.put_pair(&issue(&ca, "somebody-else"));
    refused("us-east-1/somebody-else");
    std::fs::remove_file(place.0.path().join("key.pem")).unwrap();
    refused("no such file");
    let (dialled, accepted) = handshake(&there, b.client_config(), &here).await;
    assert!(dialled.is_ok() && accepted.is_ok());

    place.put_pair(&next);
    assert!(a.reload().unwrap());
    assert!(!a.reload().unwrap(), "nothing has changed since");
    assert_eq!((a.status().rotations_total, a.status().reload_failures_total), (1, 5));
    assert_eq!(a.status().reload_error, None);
}

#[tokio::test]
async fn a_mesh_changes_its_ca_without_a_gap() {
    let (old, new) = (authority("mesh.local"), authority("mesh.local"));
    let both = format!("{}{}", old.cert_pem(), new.cert_pem());
    let ((place_a, a), (place_b, b)) = (good(&old, "a"), good(&old, "b"));
    let (here, there) = (listen(a.server_config()), listen(b.server_config()));
    let meet = async |what: &str| {
        for (from, config, to) in [(&here, a.client_config(), &there), (&there, b.client_config(), &here)] {
            let (dialled, accepted) = handshake(from, config, to).await;
            assert!(dialled.is_ok() && accepted.is_ok(), "{what}: {} {}", shown(&dialled), shown(&accepted));
        }
    };
    place_a.put_ca(&both);
    assert!(a.reload().unwrap());
    meet("one node trusts both").await;
    place_b.put_ca(&both);
    assert!(b.reload().unwrap());
    place_a.put_pair(&issue(&new, "a"));
    assert!(a.reload().unwrap());
    meet("one node is of the new CA").await;
    place_b.put_pair(&issue(&new, "b"));
    assert!(b.reload().unwrap());
    for (place, identities) in [(&place_a, &a), (&place_b, &b)] {
        place.put_ca(new.cert_pem());
        assert!(identities.reload().unwrap());
    }
    meet("the old CA is gone").await;
    let late = Place::new(&both, &issue(&old, "late")).load("late").unwrap();
    let third = listen(late.server_config());
    let (dialled, _) = handshake(&third, late.client_config(), &here).await;
    assert!(dialled.is_err(), "a certificate of the removed CA is refused");
}

#[test]
fn files_that_cannot_serve_are_refused_with_file_and_mend() {
    let ca = authority("mesh.local");
    let place = Place::new(ca.cert_pem(), &issue(&ca, "a"));
    let says = |complaint: String, parts: &[&str]| {
        for part in parts {
            assert!(complaint.contains(part), "{complaint:?} should say {part:?}");
        }
    };
    says(place.complaint("b"), &["cert.pem", "us-east-1/a", "us-east-1/b", "certs issue --cluster us-east-1 --node b"]);
    place.put_ca(authority("mesh.local").cert_pem());
    says(place.complaint("a"), &["cert.pem", "ca.pem", "no CA in"]);
    place.put_ca(&issue(&ca, "x").cert_pem);
    says(place.complaint("a"), &["ca.pem", "certificate 1 in it is not a CA"]);
    place.put_ca("nothing");
    says(place.complaint("a"), &["ca.pem", "no certificate in PEM"]);
    place.put_ca("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    says(place.complaint("a"), &["ca.pem", "PEM is damaged"]);
    place.put_ca(&"x".repeat(2 << 20));
    says(place.complaint("a"), &["ca.pem", "more than 1 MiB"]);
    place.put_ca(ca.cert_pem());
    let mut server_only = leaf(&ca, "a");
    server_only.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    place.put_pair(&ca.sign(server_only, unix_now(), DAY).unwrap());
    says(place.complaint("a"), &["cert.pem", "clientAuth"]);
    place.put_pair(&ca.issue(&node("a"), &[], days_from_now(10), DAY).unwrap());
    says(place.complaint("a"), &["cert.pem", "not valid before", "clock"]);
    place.put_pair(&issue(&ca, "a"));
    std::fs::write(place.0.path().join("key.pem"), "-----BEGIN SECRET-IN-A-LINE\n").unwrap();
    let complaint = place.complaint("a");
    assert!(complaint.contains("key.pem") && !complaint.contains("SECRET"), "{complaint}");
}

#[cfg(unix)]
#[test]
fn a_key_that_anybody_may_read_is_seen() {
    use std::os::unix::fs::PermissionsExt;
    let ca = authority("mesh.local");
    let place = Place::new(ca.cert_pem(), &issue(&ca, "a"));
    let key = place.0.path().join("key.pem");
    let files = Files { ca: key.clone(), cert: key.clone(), key: key.clone() };
    for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(files.key_is_exposed(), exposed, "{mode:o}");
    }
}
