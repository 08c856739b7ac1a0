//! A proxy in front of the server says who its user is, in headers (upstream `authentication/request/headerrequest`).
//!
//! Only who shows a certificate of the proxies' own CA is believed, so that nobody else can be anybody.

use async_trait::async_trait;
use http::HeaderMap;
use http::request::Parts;
use x509_parser::prelude::{FromDer, X509Certificate};
use xebec_clock::Clock;
use xebec_pki::is_issued_by;
use xebec_schema::status::Status;

use super::impersonation::percent_decode;
use super::{Authenticator, Peer, UserInfo};

/// Which proxies are believed, and which headers.
#[derive(Clone, Debug)]
pub struct FrontProxyConfig {
    /// The CA of the proxies' certificates, in PEM.
    pub client_ca_pem: String,
    /// The common names that the certificates may have; any, if empty.
    pub allowed_names: Vec<String>,
    /// Where the user's name is: the first that is there counts.
    pub username_headers: Vec<String>,
    /// Where the UID is, likewise.
    pub uid_headers: Vec<String>,
    /// Where groups are: all count.
    pub group_headers: Vec<String>,
    /// What the names of headers with more about the user begin with.
    pub extra_header_prefixes: Vec<String>,
}

impl FrontProxyConfig {
    /// The headers that everybody uses.
    pub fn new(client_ca_pem: String) -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            client_ca_pem,
            allowed_names: Vec::new(),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_header_prefixes: one("X-Remote-Extra-"),
        }
    }
}

/// Authenticates by what a proxy says.
pub struct FrontProxy {
    config: FrontProxyConfig,
    clock: Clock,
}

impl FrontProxy {
    /// `clock` says whether a proxy's certificate has ended.
    pub fn new(config: FrontProxyConfig, clock: &Clock) -> Self {
        Self { config, clock: clock.clone() }
    }

    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let all = |name: &String| {
            let values = headers.get_all(name.as_str()).iter();
            values.filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let first = |names: &[String]| names.iter().find_map(|name| all(name).into_iter().next());
        let mut user = UserInfo {
            name: first(&self.config.username_headers)?,
            uid: first(&self.config.uid_headers).unwrap_or_default(),
            groups: self.config.group_headers.iter().flat_map(all).collect(),
            ..UserInfo::default()
        };
        for (name, value) in headers {
            let key = self.config.extra_header_prefixes.iter().find_map(|prefix| {
                let prefix = prefix.to_ascii_lowercase();
                name.as_str().strip_prefix(&prefix).filter(|key| !key.is_empty())
            });
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                user.extra.entry(percent_decode(key)).or_default().push(value.to_owned());
            }
        }
        Some(user)
    }
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, Status> {
        let certificate = request.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_ref());
        let Some(der) = certificate.filter(|der| is_issued_by(der, &self.config.client_ca_pem)) else {
            return Ok(None);
        };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Status::unauthorized())?;
        if self.clock.now().as_second() > certificate.validity().not_after.timestamp() {
            return Err(Status::unauthorized());
        }
        let name = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
        if !self.config.allowed_names.is_empty() && !self.config.allowed_names.iter().any(|own| own == name) {
            tracing::debug!(name, "a proxy's certificate is good, but its name is not in the list");
            return Err(Status::unauthorized());
        }
        Ok(self.user(&request.headers))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use xebec_clock::Random;
    use xebec_pki::ClusterCa;

    use super::*;
    use crate::authn::x509::X509;

    #[tokio::test]
    async fn only_proxies_are_believed() {
        let clock = Clock::system();
        let (proxies, clients) = (
            ClusterCa::ephemeral(&clock, &Random::seeded(1)).unwrap(),
            ClusterCa::ephemeral(&clock, &Random::seeded(2)).unwrap(),
        );
        let pem = proxies.certificate_pem().to_owned();
        let config = FrontProxyConfig { allowed_names: vec!["front".into()], ..FrontProxyConfig::new(pem.clone()) };
        let (method, x509) = (FrontProxy::new(config, &clock), X509::new(&clock).not_of(Some(pem)));
        let request = |ca: &ClusterCa, name: &str, headers: &[(&'static str, &str)]| {
            let pair = ca.client_cert(name, &["system:masters"], SignedDuration::from_hours(1)).unwrap();
            let der = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
            let mut request = http::Request::new(()).into_parts().0;
            request.extensions.insert(Peer { address: None, certificate: Some(Arc::new(der.into())) });
            for (name, value) in headers {
                request.headers.append(*name, value.parse().unwrap());
            }
            request
        };
        let headers = [
            ("x-remote-user", "jane"),
            ("x-remote-uid", "u1"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-acme.com%2fproject", "x"),
        ];
        let trusted = request(&proxies, "front", &headers);
        let user = method.authenticate(&trusted).await.unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups),
            ("jane", "u1", vec!["dev".to_owned(), "ops".to_owned()])
        );
        assert_eq!(user.extra["acme.com/project"], ["x"]);
        assert_eq!(x509.authenticate(&trusted).await.unwrap(), None, "a proxy's certificate is nobody's own");
        assert_eq!(method.authenticate(&request(&proxies, "front", &[])).await.unwrap(), None);
        assert_eq!(method.authenticate(&request(&proxies, "other", &headers)).await.unwrap_err().code, 401);
        let client = request(&clients, "front", &headers);
        assert_eq!(method.authenticate(&client).await.unwrap(), None);
        assert_eq!(x509.authenticate(&client).await.unwrap().unwrap().name, "front");
    }
}
