//! The crate as its callers use it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use jiff::SignedDuration;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};
use xebec_clock::{Clock, Random};

use super::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn ca() -> (ClusterCa, Clock, Random) {
    let (clock, random) = (Clock::system(), Random::seeded(1));
    (ClusterCa::ephemeral(&clock, &random).unwrap(), clock, random)
}

#[test]
fn the_ca_is_the_same_after_a_restart_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let (clock, random) = (Clock::system(), Random::seeded(1));
    let first = ClusterCa::load_or_create(&pki, &clock, &random).unwrap();
    let second = ClusterCa::load_or_create(&pki, &clock, &random).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&pki), 0o700);
    assert_eq!(mode(&pki.join("ca.key")), 0o600);

    std::fs::remove_file(pki.join("ca.key")).unwrap();
    let error = ClusterCa::load_or_create(&pki, &clock, &random).unwrap_err();
    assert!(matches!(error, Error::KeyMissing { .. }), "{error}");
}

#[test]
fn a_ca_with_somebody_elses_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, random) = (Clock::system(), Random::seeded(1));
    ClusterCa::load_or_create(dir.path(), &clock, &random).unwrap();
    let other = ClusterCa::ephemeral(&clock, &random).unwrap();
    std::fs::write(dir.path().join("ca.crt"), other.certificate_pem()).unwrap();
    assert!(matches!(ClusterCa::load_or_create(dir.path(), &clock, &random), Err(Error::Malformed { .. })));
}

#[test]
fn a_client_certificate_carries_all_its_groups_and_ends_in_time() {
    let (ca, clock, _) = ca();
    let pair = ca.client_cert("jane", &["dev", "ops", "qa"], DAY).unwrap();
    let der = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let groups: Vec<_> = certificate.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
    assert_eq!(groups, ["dev", "ops", "qa"]);
    let (_, authority) = X509Certificate::from_der(ca.certificate()).unwrap();
    certificate.verify_signature(Some(authority.public_key())).unwrap();

    let validity = Validity::of_pem(&pair.certificate_pem).unwrap();
    assert!(!validity.expired(clock.now()));
    assert!(validity.expired(clock.now() + SignedDuration::from_hours(25)));
    let renew = validity.renew_at(80);
    assert!(
        renew > clock.now() + SignedDuration::from_hours(19) && renew < clock.now() + SignedDuration::from_hours(20)
    );
}

#[test]
fn no_certificate_outlives_the_ca() {
    let (ca, ..) = ca();
    let pair = ca.client_cert("jane", &[], DAY * 36500).unwrap();
    let (leaf, root) =
        (Validity::of_pem(&pair.certificate_pem).unwrap(), Validity::of_pem(ca.certificate_pem()).unwrap());
    assert_eq!(leaf.not_after, root.not_after);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let (ca, ..) = ca();
    for name in ["", "a b", "x..y", "-\u{e9}"] {
        assert!(matches!(ca.server_cert("x", &[name], DAY), Err(Error::Name(_))), "{name:?}");
    }
}

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVING: &[&str] = &["digital signature", "server auth"];

#[test]
fn signers_keep_their_rules() {
    let (ca, ..) = ca();
    let request = |cn: &str, o: &[&str], names: &[&str]| KeyAndRequest::generate(cn, o, names).unwrap().request_pem;
    let sign = |csr: &str, signer, usages: &[&str]| match ca.sign_csr(csr, signer, usages, DAY) {
        Ok(_) => Ok(()),
        Err(Error::Csr(e)) => Err(e),
        Err(other) => panic!("{other}"),
    };
    use CsrError::*;
    use Signer::*;
    let node = "system:node:n1";
    let nodes: &[&str] = &["system:nodes"];
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Signer, &'a [&'a str], Result<(), CsrError>);
    let cases: &[Case<'_>] = &[
        (node, nodes, &[], KubeletClient, CLIENT, Ok(())),
        (node, nodes, &["n1", "10.0.0.1", "fd00::1"], KubeletServing, SERVING, Ok(())),
        (node, &["system:nodes", "system:masters"], &[], KubeletClient, CLIENT, Err(Organization)),
        (node, &["system:masters"], &[], KubeletClient, CLIENT, Err(Organization)),
        ("admin", nodes, &[], KubeletClient, CLIENT, Err(CommonName)),
        (node, nodes, &["n1"], KubeletClient, CLIENT, Err(DnsNames)),
        (node, nodes, &["10.0.0.1"], KubeletClient, CLIENT, Err(IpNames)),
        (node, nodes, &[], KubeletServing, SERVING, Err(NamesRequired)),
        ("jane", &["a", "b"], &[], ApiClient, CLIENT, Ok(())),
    ];
    for (cn, o, names, signer, usages, expected) in cases {
        assert_eq!(&sign(&request(cn, o, names), *signer, usages), expected, "{cn} {o:?} {names:?}");
    }
    let good = request(node, nodes, &[]);
    assert!(matches!(sign(&good, KubeletClient, SERVING), Err(Usages(_))));
    assert!(matches!(sign(&good, KubeletClient, &["client auth"]), Err(Usages(_))));
    assert!(matches!(sign(&good, KubeletClient, &["digital signature", "client auth", "server auth"]), Err(Usages(_))));
    assert!(matches!(sign("nonsense", KubeletClient, CLIENT), Err(Malformed(_))));
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let (one, two) = (
        KeyAndRequest::generate("system:node:a", &["system:nodes"], &[]).unwrap(),
        KeyAndRequest::generate("system:node:b", &["system:nodes"], &[]).unwrap(),
    );
    let der = |pem: &str| rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (mut one, two) = (der(&one.request_pem).to_vec(), der(&two.request_pem).to_vec());
    // The subjects have the same length, so one letter turns the first request into a forged one.
    let at = one.windows(13).position(|w| w == b"system:node:a").unwrap();
    one[at + 12] = b'b';
    assert!(two.windows(13).any(|w| w == b"system:node:b"));
    let forged = crate::ca::pem("CERTIFICATE REQUEST", &one);
    assert_eq!(RequestedIdentity::of_pem(&forged), Err(CsrError::Signature));
}

#[test]
fn a_signed_request_is_accepted_by_a_tls_server() {
    let (ca, clock, _) = ca();
    let server = ca.server_cert("apiserver", &["localhost", "127.0.0.1"], DAY).unwrap();
    let request = KeyAndRequest::generate("system:node:n1", &["system:nodes"], &[]).unwrap();
    let certificate_pem = ca.sign_csr(&request.request_pem, Signer::KubeletClient, CLIENT, DAY).unwrap();
    let client = Certified { certificate_pem, key_pem: request.key_pem };
    assert_eq!(handshake(&ca, &clock, &server, Some(&client)).unwrap(), Some("system:node:n1".into()));
    assert_eq!(handshake(&ca, &clock, &server, None).unwrap(), None);

    let stranger = ClusterCa::ephemeral(&clock, &Random::seeded(2)).unwrap().client_cert("x", &[], DAY).unwrap();
    assert!(handshake(&ca, &clock, &server, Some(&stranger)).is_err());
}

/// The common name that the server sees its client under.
fn handshake(
    ca: &ClusterCa,
    clock: &Clock,
    server: &Certified,
    client: Option<&Certified>,
) -> Result<Option<String>, String> {
    let tls = ServerTls { certified: server, client_ca_pem: ca.certificate_pem() };
    let mut server = rustls::ServerConnection::new(server_config(&tls, clock).unwrap()).unwrap();
    let config: Arc<_> = client_config(ca.certificate_pem(), client, clock).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).map_err(|e| e.to_string())?;
        server.read_tls(&mut wire.as_slice()).map_err(|e| e.to_string())?;
        server.process_new_packets().map_err(|e| e.to_string())?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).map_err(|e| e.to_string())?;
        client.read_tls(&mut wire.as_slice()).map_err(|e| e.to_string())?;
        client.process_new_packets().map_err(|e| e.to_string())?;
    }
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    client.writer().write_all(b"x").unwrap();
    let _ = client.reader().read(&mut [0; 1]);
    Ok(server.peer_certificates().map(|chain| {
        let (_, certificate) = X509Certificate::from_der(&chain[0]).unwrap();
        certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    }))
}

#[test]
fn bootstrap_tokens_are_hashed_and_checked() {
    let token = BootstrapToken::generate(&Random::seeded(3));
    assert_eq!(token.to_string().parse::<BootstrapToken>().unwrap(), token);
    assert!(verify_secret(&token.hash(), token.secret()));
    assert!(!verify_secret(&token.hash(), "0123456789abcdef"));
    assert!(!verify_secret("", token.secret()));
    assert!(!verify_secret(&token.hash()[..10], token.secret()));
    for bad in ["", "abc", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef-0123456789abcdef"] {
        assert!(bad.parse::<BootstrapToken>().is_err(), "{bad}");
    }
    let secret = token.to_secret(None, &["system:bootstrappers:xebec:nodes"], "").to_string();
    assert!(!secret.contains(token.secret()), "the secret half must not be stored");
    assert!(!format!("{token:?}").contains(token.secret()));
}

fn sign(keys: &ServiceAccountKeys, clock: &Clock, audience: &str) -> String {
    let now = clock.now();
    let object = |name: &str| BoundObject { name: name.into(), uid: format!("{name}-uid") };
    keys.sign(&TokenRequest {
        namespace: "default",
        service_account: object("builder"),
        pod: Some(object("web-0")),
        secret: None,
        node: Some(object("n1")),
        audiences: &[audience.to_owned()],
        issued: now,
        expires: now + SignedDuration::from_hours(1),
        warn_after: None,
        id: "an-id",
    })
    .unwrap()
}

#[test]
fn service_account_tokens_have_upstreams_claims() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let keys = ServiceAccountKeys::load_or_create(dir.path(), DEFAULT_ISSUER).unwrap();
    let token = sign(&keys, &clock, "api");
    // Another process with the same key file accepts it.
    let keys = ServiceAccountKeys::load_or_create(dir.path(), DEFAULT_ISSUER).unwrap();
    let claims = keys.verify(&token, &["other".into(), "api".into()], clock.now()).unwrap();
    assert_eq!(claims.sub, "system:serviceaccount:default:builder");
    let value = serde_json::to_value(&claims).unwrap();
    assert_eq!(value["kubernetes.io"]["serviceaccount"]["uid"], "builder-uid");
    assert_eq!(value["kubernetes.io"]["pod"]["name"], "web-0");
    assert_eq!(value["kubernetes.io"]["node"]["uid"], "n1-uid");
    assert_eq!(value["aud"], serde_json::json!(["api"]));
    assert_eq!(keys.jwks()["keys"][0]["kid"].as_str().unwrap().len(), 43);
}

#[test]
fn bad_service_account_tokens_are_refused() {
    let clock = Clock::system();
    let keys = ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap();
    let other = ServiceAccountKeys::ephemeral(DEFAULT_ISSUER).unwrap();
    let foreign = ServiceAccountKeys::ephemeral("https://elsewhere").unwrap();
    let audiences = ["api".to_owned()];
    let token = sign(&keys, &clock, "api");
    let now = clock.now();
    let verify = |token: &str, now| keys.verify(token, &audiences, now).unwrap_err();
    assert_eq!(verify(&token, now + SignedDuration::from_hours(2)), TokenError::Expired);
    assert_eq!(verify(&token, now - SignedDuration::from_hours(2)), TokenError::NotYet);
    assert!(matches!(verify(&sign(&keys, &clock, "vault"), now), TokenError::Audience(..)));
    assert!(matches!(verify(&sign(&other, &clock, "api"), now), TokenError::Invalid(_)));
    assert_eq!(verify(&sign(&foreign, &clock, "api"), now), TokenError::Foreign);
    assert_eq!(verify("abcdef.0123456789abcdef", now), TokenError::Foreign);
    // An unsigned token that claims to be ours.
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[0] = "eyJhbGciOiJub25lIn0";
    parts[2] = "";
    assert!(matches!(verify(&parts.join("."), now), TokenError::Invalid(_)));
}

#[test]
fn a_kubeconfig_embeds_everything() {
    let (ca, ..) = ca();
    let credentials = Credentials::Certificate(ca.client_cert("admin", &["system:masters"], DAY).unwrap());
    let text = Kubeconfig {
        cluster: "xebec",
        server: "https://127.0.0.1:6443",
        ca_pem: ca.certificate_pem(),
        user: "admin",
        credentials: &credentials,
    }
    .render();
    for line in [
        "    server: \"https://127.0.0.1:6443\"\n",
        "current-context: \"xebec\"\n",
        "- name: \"admin@xebec\"\n  user:\n    client-certificate-data: LS0t",
        "    user: \"admin@xebec\"\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn tokens_outlive_a_change_of_the_key() {
    let (clock, dir) = (Clock::system(), tempfile::tempdir().unwrap());
    let audience = [DEFAULT_ISSUER.to_owned()];
    let before = ServiceAccountKeys::load_or_create(dir.path(), DEFAULT_ISSUER).unwrap();
    let token = sign(&before, &clock, DEFAULT_ISSUER);
    std::fs::rename(dir.path().join("service-account.key"), dir.path().join("service-account-1.key")).unwrap();
    let after = ServiceAccountKeys::load_or_create(dir.path(), DEFAULT_ISSUER).unwrap();
    assert!(after.verify(&token, &audience, clock.now()).is_ok());
    let fresh = sign(&after, &clock, DEFAULT_ISSUER);
    assert!(after.verify(&fresh, &audience, clock.now()).is_ok());
    assert!(before.verify(&fresh, &audience, clock.now()).is_err());
    assert_eq!(after.jwks()["keys"].as_array().unwrap().len(), 2);
    std::fs::remove_file(dir.path().join("service-account-1.key")).unwrap();
    let later = ServiceAccountKeys::load_or_create(dir.path(), DEFAULT_ISSUER).unwrap();
    assert!(later.verify(&token, &audience, clock.now()).is_err());
    assert!(later.verify(&fresh, &audience, clock.now()).is_ok());
}
