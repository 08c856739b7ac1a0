//! TLS of a server whose certificate changes while it serves.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Shows the newest certificate.
#[derive(Debug)]
pub struct Renewing(RwLock<Arc<dyn ResolvesServerCert>>);

impl Renewing {
    /// The set-up `first`, made to show what [`Renewing::renew`] brings.
    pub fn new(first: Arc<ServerConfig>) -> (Arc<Self>, ServerConfig) {
        let renewing = Arc::new(Self(RwLock::new(Arc::clone(&first.cert_resolver))));
        let mut config = Arc::unwrap_or_clone(first);
        config.cert_resolver = Arc::clone(&renewing) as _;
        (renewing, config)
    }

    /// Shows the certificate of `newer` from now on.
    pub fn renew(&self, newer: &ServerConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&newer.cert_resolver);
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).resolve(hello)
    }
}
