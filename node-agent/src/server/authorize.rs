//! Who may use the kubelet API: the API server, and the cluster's administrators.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

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

/// Whether the client with these (verified) certificates is refused.
pub(super) fn verdict(certificates: Option<&[CertificateDer<'_>]>) -> Option<Refusal> {
    let Some(certificate) = certificates.and_then(<[_]>::first) else { return Some(Refusal::Unauthorized) };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Some(Refusal::Unauthorized) };
    let subject = certificate.subject();
    let is_server = subject.iter_common_name().any(|n| n.as_str() == Ok(API_SERVER));
    let is_administrator = subject.iter_organization().any(|o| o.as_str() == Ok(ADMINISTRATORS));
    if is_server || is_administrator { None } else { Some(Refusal::Forbidden) }
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
    fn only_the_server_and_administrators_may() {
        let of = |name: &str, group: &str| verdict(Some(&[certificate(name, group)]));
        assert_eq!(of(API_SERVER, "x"), None);
        assert_eq!(of("me", ADMINISTRATORS), None);
        assert_eq!(of("system:node:n1", "system:nodes"), Some(Refusal::Forbidden));
        assert_eq!(verdict(None), Some(Refusal::Unauthorized));
    }
}
