//! Certificate requests (PKCS #10), and the rules of the signers that Kubernetes knows (upstream
//! `pkg/apis/certificates/helpers.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::SignedDuration;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer;

use crate::ca::{Leaf, general_names, pem};
use crate::{ClusterCa, Error, der};

/// A signer of the API server's own (`spec.signerName`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// `kubernetes.io/kube-apiserver-client`: any client.
    ApiClient,
    /// `kubernetes.io/kube-apiserver-client-kubelet`: a node as a client.
    KubeletClient,
    /// `kubernetes.io/kubelet-serving`: a node as a server.
    KubeletServing,
}

/// Why a request is not signed; the words are upstream's where it has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is no certificate request.
    #[error("unable to parse csr: {0}")]
    Malformed(String),
    /// It is not signed by the key it carries.
    #[error("the request is not signed by the key it is for")]
    Signature,
    /// Its organisation is not `system:nodes`, alone.
    #[error("subject organization is not system:nodes")]
    Organization,
    /// Its common name is not that of a node.
    #[error("subject common name does not begin with system:node: ")]
    CommonName,
    /// It names no address to serve on.
    #[error("DNS or IP subjectAltName is required")]
    NamesRequired,
    /// It carries DNS names.
    #[error("DNS subjectAltNames are not allowed")]
    DnsNames,
    /// It carries e-mail addresses.
    #[error("Email subjectAltNames are not allowed")]
    EmailNames,
    /// It carries IP addresses.
    #[error("IP subjectAltNames are not allowed")]
    IpNames,
    /// It carries URIs.
    #[error("URI subjectAltNames are not allowed")]
    UriNames,
    /// Its usages are not what the signer signs.
    #[error("usages did not match {0}")]
    Usages(String),
}

impl Signer {
    /// The signer of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ApiClient, Self::KubeletClient, Self::KubeletServing].into_iter().find(|s| s.name() == name)
    }

    /// `kubernetes.io/...`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiClient => "kubernetes.io/kube-apiserver-client",
            Self::KubeletClient => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::KubeletServing => "kubernetes.io/kubelet-serving",
        }
    }

    fn check_usages(self, usages: &[&str]) -> Result<(), CsrError> {
        let extended = if self == Self::KubeletServing { "server auth" } else { "client auth" };
        let asked: BTreeSet<&str> = usages.iter().copied().collect();
        let allowed = BTreeSet::from(["digital signature", "key encipherment", extended]);
        let complete = match self {
            Self::ApiClient => asked.contains(extended),
            _ => asked.contains(extended) && asked.contains("digital signature"),
        };
        if complete && asked.is_subset(&allowed) {
            return Ok(());
        }
        Err(CsrError::Usages(format!("[{}]", allowed.into_iter().collect::<Vec<_>>().join(" "))))
    }

    fn check(self, asked: &RequestedIdentity) -> Result<(), CsrError> {
        if self == Self::ApiClient {
            return Ok(());
        }
        if asked.organizations != ["system:nodes"] {
            return Err(CsrError::Organization);
        }
        let serving = self == Self::KubeletServing;
        if serving && asked.dns_names.is_empty() && asked.addresses.is_empty() {
            return Err(CsrError::NamesRequired);
        }
        if !serving && !asked.dns_names.is_empty() {
            return Err(CsrError::DnsNames);
        }
        if asked.emails > 0 {
            return Err(CsrError::EmailNames);
        }
        if !serving && !asked.addresses.is_empty() {
            return Err(CsrError::IpNames);
        }
        if asked.uris > 0 {
            return Err(CsrError::UriNames);
        }
        if !asked.common_name.starts_with("system:node:") {
            return Err(CsrError::CommonName);
        }
        Ok(())
    }
}

/// Whom a request is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedIdentity {
    /// The subject's CN: the user name.
    pub common_name: String,
    /// The subject's O: the groups.
    pub organizations: Vec<String>,
    /// DNS names it is to serve as.
    pub dns_names: Vec<String>,
    /// Addresses it is to serve on.
    pub addresses: Vec<IpAddr>,
    /// How many e-mail addresses it asks for.
    pub emails: usize,
    /// How many URIs it asks for.
    pub uris: usize,
}

impl RequestedIdentity {
    /// Reads a PEM request, and checks that it is signed by the key it carries.
    ///
    /// # Errors
    ///
    /// [`CsrError::Malformed`] and [`CsrError::Signature`].
    pub fn of_pem(pem: &str) -> Result<Self, CsrError> {
        let der = decode(pem)?;
        read(&parse(&der)?)
    }
}

/// A new key, and the request for a certificate of it.
#[derive(Clone, Debug)]
pub struct KeyAndRequest {
    /// PKCS #8.
    pub key_pem: String,
    /// `-----BEGIN CERTIFICATE REQUEST-----`.
    pub request_pem: String,
}

impl KeyAndRequest {
    /// For the user `common_name` in the groups `organizations`, serving as `names` (DNS names, IP addresses).
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is neither; if the key generator fails.
    pub fn generate(common_name: &str, organizations: &[&str], names: &[&str]) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let names = general_names(names)?;
        // extensionRequest (1.2.840.113549.1.9.14)
        const EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
        let attributes = if names.is_empty() {
            Vec::new()
        } else {
            let extension = der::extension(der::OID_SUBJECT_ALT_NAME, false, &names);
            let extensions = der::tlv(der::SET, &[&der::tlv(der::SEQUENCE, &[&extension])]);
            der::tlv(der::SEQUENCE, &[EXTENSION_REQUEST, &extensions])
        };
        let body = der::tlv(
            der::SEQUENCE,
            &[
                &der::unsigned(&[0]),
                &der::name(common_name, organizations),
                &key.subject_public_key_info(),
                &der::tlv(0xa0, &[&attributes]),
            ],
        );
        let signature = key.sign(&body)?;
        let request = der::tlv(der::SEQUENCE, &[&body, der::ECDSA_SHA256, &der::bits(&signature)]);
        Ok(Self { key_pem: key.serialize_pem(), request_pem: pem("CERTIFICATE REQUEST", &request) })
    }
}

impl ClusterCa {
    /// Signs the PEM request `csr` for `usages` (`digital signature`, `client auth`...) by the rules of `signer`. The
    /// subject, the key and the alternative names are taken as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Csr`] if the request breaks a rule.
    pub fn sign_csr(
        &self,
        csr: &str,
        signer: Signer,
        usages: &[&str],
        validity: SignedDuration,
    ) -> Result<String, Error> {
        let request_der = decode(csr)?;
        let request = parse(&request_der)?;
        let asked = read(&request)?;
        signer.check_usages(usages)?;
        signer.check(&asked)?;
        let names: Vec<String> =
            asked.dns_names.iter().cloned().chain(asked.addresses.iter().map(IpAddr::to_string)).collect();
        let alternative_names = general_names(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let info = &request.certification_request_info;
        let leaf = Leaf {
            subject: info.subject.as_raw(),
            public_key: info.subject_pki.raw,
            alternative_names: &alternative_names,
            server: signer == Signer::KubeletServing,
            client: signer != Signer::KubeletServing,
            key_encipherment: usages.contains(&"key encipherment"),
        };
        self.issue(&leaf, validity)
    }
}

fn decode(pem: &str) -> Result<CertificateSigningRequestDer<'static>, CsrError> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|e| CsrError::Malformed(e.to_string()))
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, CsrError> {
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| CsrError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("there is something after the request".into()));
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(request)
}

fn read(request: &X509CertificationRequest<'_>) -> Result<RequestedIdentity, CsrError> {
    let info = &request.certification_request_info;
    let mut asked = RequestedIdentity::default();
    for attribute in info.subject.iter_attributes() {
        let text = attribute.as_str().map_err(|e| CsrError::Malformed(e.to_string()));
        if *attribute.attr_type() == oid_registry::OID_X509_COMMON_NAME {
            asked.common_name = text?.to_owned();
        } else if *attribute.attr_type() == oid_registry::OID_X509_ORGANIZATION_NAME {
            asked.organizations.push(text?.to_owned());
        }
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => asked.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => asked.addresses.push(address(bytes)?),
                GeneralName::RFC822Name(_) => asked.emails += 1,
                GeneralName::URI(_) => asked.uris += 1,
                other => return Err(CsrError::Malformed(format!("unsupported alternative name {other}"))),
            }
        }
    }
    Ok(asked)
}

fn address(bytes: &[u8]) -> Result<IpAddr, CsrError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(v6.into());
    }
    Err(CsrError::Malformed(format!("an IP address of {} bytes", bytes.len())))
}
