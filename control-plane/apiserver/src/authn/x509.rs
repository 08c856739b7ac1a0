//! Client certificates: the common name is the user, the organisations are the groups.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::OnceLock;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use xebec_clock::Clock;
use xebec_pki::is_issued_by;
use xebec_schema::status::Status;

use super::{Authenticator, Peer, UserInfo};

/// A connection's client certificate. It is read for the connection's first request, and not again.
#[derive(Debug)]
pub struct PeerCertificate {
    der: CertificateDer<'static>,
    /// `None` for what is no certificate.
    read: OnceLock<Option<Read>>,
}

/// What a certificate says.
#[derive(Debug)]
struct Read {
    /// `None` without a common name.
    user: Option<UserInfo>,
    /// The second after which it is no good.
    ends: i64,
}

impl From<CertificateDer<'static>> for PeerCertificate {
    fn from(der: CertificateDer<'static>) -> Self {
        Self { der, read: OnceLock::new() }
    }
}

impl Deref for PeerCertificate {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.der
    }
}

/// Authenticates by the certificate that the TLS handshake has verified.
#[derive(Clone, Debug)]
pub struct X509 {
    clock: Clock,
    /// Another CA whose certificates the handshake accepts, and that says nothing of users.
    other_ca: Option<String>,
}

impl X509 {
    /// `clock` says whether a certificate has ended since its connection began.
    pub fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), other_ca: None }
    }

    /// Does not take certificates of `ca` (in PEM) for users.
    #[must_use]
    pub fn not_of(self, ca: Option<String>) -> Self {
        Self { other_ca: ca, ..self }
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(&self, request: &http::request::Parts) -> Result<Option<UserInfo>, Status> {
        let Some(certificate) = request.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref()) else {
            return Ok(None);
        };
        if self.other_ca.as_ref().is_some_and(|ca| is_issued_by(certificate, ca)) {
            return Ok(None);
        }
        let Some(read) = certificate.read.get_or_init(|| read(certificate)) else {
            return Err(Status::unauthorized());
        };
        if self.clock.now().as_second() > read.ends {
            return Err(Status::unauthorized());
        }
        Ok(read.user.clone())
    }
}

fn read(der: &[u8]) -> Option<Read> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(Read { user: user_of(der, &certificate), ends: certificate.validity().not_after.timestamp() })
}

/// The user a certificate stands for; `None` if it has no common name.
fn user_of(der: &[u8], certificate: &X509Certificate<'_>) -> Option<UserInfo> {
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let digest: String = Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect();
    let id = ("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={digest}")]);
    Some(UserInfo { name: name.to_owned(), uid: String::new(), groups, extra: BTreeMap::from([id]) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use rustls::pki_types::pem::PemObject;
    use xebec_clock::Random;
    use xebec_pki::ClusterCa;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_subject_is_the_user_until_the_certificate_ends() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let ca = ClusterCa::ephemeral(&clock, &Random::seeded(1)).unwrap();
        let pair = ca.client_cert("jane", &["dev", "ops"], SignedDuration::from_hours(1)).unwrap();
        let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
        let mut request = http::Request::new(()).into_parts().0;
        let method = X509::new(&clock);
        assert_eq!(method.authenticate(&request).await.unwrap(), None);
        request.extensions.insert(Peer { address: None, certificate: Some(Arc::new(certificate.into())) });
        let user = method.authenticate(&request).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("jane", vec!["dev".to_owned(), "ops".to_owned()]));
        tokio::time::sleep(std::time::Duration::from_secs(3700)).await;
        assert_eq!(method.authenticate(&request).await.unwrap_err().code, 401);
    }
}
