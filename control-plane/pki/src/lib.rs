//! The cluster CA, certificates, join tokens and service-account tokens.
//!
//! Keys are ECDSA P-256 throughout and come from the operating system's random source; serial numbers, token ids and
//! the time come from the caller.

mod bootstrap_token;
mod ca;
mod csr;
mod der;
mod expiry;
mod files;
mod kubeconfig;
mod service_account;
mod tls;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use bootstrap_token::{BootstrapToken, hash_secret, verify_secret};
pub use ca::{Certified, ClusterCa, is_issued_by};
pub use csr::{CsrError, KeyAndRequest, RequestedIdentity, Signer};
pub use expiry::Validity;
pub use files::write_private;
pub use kubeconfig::{Credentials, Kubeconfig};
pub use service_account::{
    BoundObject, Claims, DEFAULT_ISSUER, PrivateClaims, SECRET_ISSUER, SecretClaims, ServiceAccountKeys, TokenError,
    TokenRequest,
};
pub use tls::{ServerTls, client_config, server_config};

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// `read`, `write`...
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The CA's certificate is there but its key is not.
    #[error("{} exists but {} does not: restore the key, or remove both to start with a new CA", certificate.display(), key.display())]
    KeyMissing {
        /// The certificate's path.
        certificate: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
    /// A stored key or certificate is damaged.
    #[error("{what} is not usable: {why}")]
    Malformed {
        /// What it is.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that a certificate cannot carry.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// The key generator or signer failed.
    #[error("cannot make a key or signature: {0}")]
    Crypto(#[from] rcgen::Error),
    /// A certificate request that must not be signed.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// TLS cannot be set up with these certificates.
    #[error("TLS set-up: {0}")]
    Tls(String),
    /// A token could not be signed.
    #[error("cannot sign the token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what: what.into(), why: why.to_string() }
    }
}
