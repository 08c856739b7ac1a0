//! What we show to other API servers: a certificate by which they know that the headers with the user are ours.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use crate::webhook;

/// Who this server is to other API servers.
pub trait Identity: Send + Sync + 'static {
    /// Certificate and key, PEM.
    ///
    /// # Errors
    ///
    /// None can be made.
    fn certified(&self) -> Result<(String, String), String>;
}

/// How another server is spoken to. Without `verify`, it may be anybody.
pub(super) fn config(authorities: &[u8], verify: bool, identity: &dyn Identity) -> Result<ClientConfig, String> {
    let mut config = webhook::tls_config(authorities)?;
    let (certificate, key) = identity.certified()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|e| e.to_string())?;
    config.client_auth_cert_resolver = Arc::new(Shown(Arc::new(certified)));
    if !verify {
        // `insecureSkipTLSVerify`: whoever answers is believed.
        config.dangerous().set_certificate_verifier(Arc::new(webhook::Regardless { believed: true, provider }));
    }
    Ok(config)
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
