//! TLS with the cluster's certificates.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use xebec_clock::Clock;

use crate::{Certified, Error};

const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What a server shows, and whom it asks to show something.
#[derive(Clone, Debug)]
pub struct ServerTls<'a> {
    /// The server's certificate, perhaps with a chain behind it, and its key.
    pub certified: &'a Certified,
    /// The CA that clients' certificates must come from. A client may also show none.
    pub client_ca_pem: &'a str,
}

/// Validity is judged by the caller's clock.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| Error::malformed("the CA certificate", e))?;
        roots.add(certificate).map_err(|e| Error::malformed("the CA certificate", e))?;
    }
    Ok(Arc::new(roots))
}

fn chain_and_key(certified: &Certified) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_slice_iter(certified.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::malformed("the certificate", e))?;
    let key =
        PrivateKeyDer::from_pem_slice(certified.key_pem.as_bytes()).map_err(|e| Error::malformed("the key", e))?;
    Ok((chain, key))
}

/// A server's TLS, speaking HTTP/2 and 1.1. A client that shows a certificate of another CA is turned away in the
/// handshake; one that shows none gets in, unauthenticated.
///
/// # Errors
///
/// If the certificates or the key are malformed or do not belong together.
pub fn server_config(tls: &ServerTls<'_>, clock: &Clock) -> Result<Arc<ServerConfig>, Error> {
    let error = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let (chain, key) = chain_and_key(tls.certified)?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots(tls.client_ca_pem)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| error(&e))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|e| error(&e))?;
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's TLS: it trusts servers of the CA, and shows `certified` if it has one.
///
/// # Errors
///
/// If the certificates or the key are malformed or do not belong together.
pub fn client_config(ca_pem: &str, certified: Option<&Certified>, clock: &Clock) -> Result<Arc<ClientConfig>, Error> {
    let error = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let servers: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(roots(ca_pem)?, provider()).build().map_err(|e| error(&e))?;
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&e))?
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match certified {
        Some(certified) => {
            let (chain, key) = chain_and_key(certified)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| error(&e))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}
