//! Who may use the kubelet API: the API server, and the cluster's administrators; other agents may ask how far the maps are.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::drain::answer;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// It shows no certificate.
    Unknown,
    /// The API server or an administrator.
    Master,
    /// Another agent.
    Node,
    /// Somebody else.
    Other,
}

/// Why a client may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It shows no certificate.
    Unauthorized,
    /// It is somebody else.
    Forbidden,
}

/// The name in the API server's client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The administrators' group.
const ADMINISTRATORS: &str = "system:masters";
/// The agents' group.
const NODES: &str = "system:nodes";
/// What anybody may ask.
const OPEN: &str = "/healthz";

/// Who has these (verified) certificates.
pub(super) fn client(certificates: Option<&[CertificateDer<'_>]>) -> Client {
    let Some(certificate) = certificates.and_then(<[_]>::first) else { return Client::Unknown };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Client::Unknown };
    let subject = certificate.subject();
    let in_group = |group: &str| subject.iter_organization().any(|o| o.as_str() == Ok(group));
    if subject.iter_common_name().any(|n| n.as_str() == Ok(API_SERVER)) || in_group(ADMINISTRATORS) {
        Client::Master
    } else if in_group(NODES) {
        Client::Node
    } else {
        Client::Other
    }
}

impl Client {
    /// Why it may not ask for `path`, if so.
    pub(super) fn refusal(self, path: &str) -> Option<Refusal> {
        match self {
            _ if path == OPEN => None,
            Self::Master => None,
            Self::Node if path.starts_with(answer::PATH) => None,
            Self::Node | Self::Other => Some(Refusal::Forbidden),
            Self::Unknown => Some(Refusal::Unauthorized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str, group: &str) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    #[test]
    fn only_the_server_and_administrators_may_and_agents_a_little() {
        let of = |name: &str, group: &str, path: &str| client(Some(&[certificate(name, group)])).refusal(path);
        assert_eq!(of(API_SERVER, "x", "/pods"), None);
        assert_eq!(of("me", ADMINISTRATORS, "/pods"), None);
        assert_eq!(of("system:node:n1", "system:nodes", "/pods"), Some(Refusal::Forbidden));
        assert_eq!(of("system:node:n1", "system:nodes", "/network/applied/7/100"), None);
        assert_eq!(of("somebody", "x", answer::PATH), Some(Refusal::Forbidden));
        assert_eq!(client(None).refusal("/pods"), Some(Refusal::Unauthorized));
        assert_eq!(client(None).refusal(OPEN), None);
    }
}
