//! The cluster's certificate authority.

use std::net::IpAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use xebec_clock::{Clock, Random};

use crate::{Error, der, expiry, files};

/// How long the CA is good for.
const CA_VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Certificates are valid from a little before they are made, for peers whose clock is behind (upstream's backdate).
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Long-lived ones from longer before: a clock that is set back by hours makes none of them invalid.
const LONG_BACKDATE: SignedDuration = SignedDuration::from_hours(24);

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct Certified {
    /// `-----BEGIN CERTIFICATE-----`.
    pub certificate_pem: String,
    /// PKCS #8, `-----BEGIN PRIVATE KEY-----`.
    pub key_pem: String,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certified").finish_non_exhaustive()
    }
}

/// The one CA of a cluster: it signs what servers, nodes and clients show.
#[derive(Debug)]
pub struct ClusterCa {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    /// The CA's own name, as it stands in the certificate.
    subject: Vec<u8>,
    key_id: Vec<u8>,
    not_after: Timestamp,
    clock: Clock,
    random: Random,
}

/// What goes into a certificate beyond its validity.
pub(crate) struct Leaf<'a> {
    /// The DER of the name.
    pub(crate) subject: &'a [u8],
    /// The DER of the SubjectPublicKeyInfo.
    pub(crate) public_key: &'a [u8],
    /// The DER of the GeneralNames; empty for none.
    pub(crate) alternative_names: &'a [u8],
    pub(crate) server: bool,
    pub(crate) client: bool,
    /// The key also enciphers keys (RSA key exchange).
    pub(crate) key_encipherment: bool,
}

impl ClusterCa {
    /// The CA kept in `dir` as `ca.crt` and `ca.key`, made if it is not there.
    ///
    /// # Errors
    ///
    /// If the files cannot be read or written, do not belong together, or the key is gone.
    pub fn load_or_create(dir: &Path, clock: &Clock, random: &Random) -> Result<Self, Error> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let key = match (files::read(&key_path)?, files::read(&certificate_path)?) {
            (Some(key_pem), Some(certificate_pem)) => {
                let key =
                    KeyPair::from_pem(&key_pem).map_err(|e| Error::malformed(key_path.display().to_string(), e))?;
                return Self::assemble(key, certificate_pem, clock, random);
            }
            (None, Some(_)) => return Err(Error::KeyMissing { certificate: certificate_path, key: key_path }),
            // A crash between the two writes: the key was never used, or its certificate was removed by hand.
            (Some(key_pem), None) => {
                KeyPair::from_pem(&key_pem).map_err(|e| Error::malformed(key_path.display().to_string(), e))?
            }
            (None, None) => {
                let key = KeyPair::generate()?;
                files::write_private(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
        };
        let ca = Self::self_signed(key, clock, random)?;
        files::write_private(&certificate_path, ca.certificate_pem.as_bytes())?;
        Ok(ca)
    }

    /// A CA that is kept nowhere: for tests and simulations.
    ///
    /// # Errors
    ///
    /// If the key generator fails.
    pub fn ephemeral(clock: &Clock, random: &Random) -> Result<Self, Error> {
        Self::self_signed(KeyPair::generate()?, clock, random)
    }

    fn self_signed(key: KeyPair, clock: &Clock, random: &Random) -> Result<Self, Error> {
        let now = clock.now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial(random)));
        params.not_before = offset(saturating_add(now, -LONG_BACKDATE));
        params.not_after = offset(saturating_add(now, CA_VALIDITY));
        let certificate = params.self_signed(&key)?;
        Self::assemble(key, certificate.pem(), clock, random)
    }

    fn assemble(key: KeyPair, certificate_pem: String, clock: &Clock, random: &Random) -> Result<Self, Error> {
        let what = "the CA certificate";
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| Error::malformed(what, e))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| Error::malformed(what, e))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::malformed(what, "it is not the certificate of the CA key beside it"));
        }
        let subject = parsed.subject().as_raw().to_vec();
        let not_after = expiry::Validity::of(&parsed).not_after;
        let key_id = parsed
            .iter_extensions()
            .find_map(|e| match e.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .unwrap_or_default();
        let (clock, random) = (clock.clone(), random.clone());
        Ok(Self { key, certificate, certificate_pem, subject, key_id, not_after, clock, random })
    }

    /// The CA's certificate, which clients check the server against and the server its clients.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The same as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a server that is reached by any of `names`: DNS names, or IP addresses as text.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is neither; if the key generator fails.
    pub fn server_cert(&self, common_name: &str, names: &[&str], validity: SignedDuration) -> Result<Certified, Error> {
        let alternative_names = general_names(names)?;
        let subject = der::name(common_name, &[]);
        self.with_new_key(&subject, &alternative_names, (true, false), validity)
    }

    /// A certificate for the user `common_name` in the groups `organizations`.
    ///
    /// # Errors
    ///
    /// If the key generator fails.
    pub fn client_cert(
        &self,
        common_name: &str,
        organizations: &[&str],
        validity: SignedDuration,
    ) -> Result<Certified, Error> {
        let subject = der::name(common_name, organizations);
        self.with_new_key(&subject, &[], (false, true), validity)
    }

    fn with_new_key(
        &self,
        subject: &[u8],
        alternative_names: &[u8],
        (server, client): (bool, bool),
        validity: SignedDuration,
    ) -> Result<Certified, Error> {
        let key = KeyPair::generate()?;
        let public_key = key.subject_public_key_info();
        let leaf =
            Leaf { subject, public_key: &public_key, alternative_names, server, client, key_encipherment: false };
        Ok(Certified { certificate_pem: self.issue(&leaf, validity)?, key_pem: key.serialize_pem() })
    }

    /// Signs a certificate, valid for `validity` but no longer than the CA itself (RFC 5280 section 4.1).
    pub(crate) fn issue(&self, leaf: &Leaf<'_>, validity: SignedDuration) -> Result<String, Error> {
        let now = self.clock.now();
        let not_before = saturating_add(now, -backdate(validity));
        let not_after = saturating_add(now, validity).min(self.not_after);
        let extensions = self.extensions(leaf);
        let extensions = der::tlv(der::SEQUENCE, &extensions.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let body = der::tlv(
            der::SEQUENCE,
            &[
                &der::tlv(0xa0, &[&der::unsigned(&[2])]), // version 3
                &der::unsigned(&serial(&self.random)),
                der::ECDSA_SHA256,
                &self.subject,
                &der::tlv(der::SEQUENCE, &[&der::time(not_before), &der::time(not_after)]),
                leaf.subject,
                leaf.public_key,
                &der::tlv(0xa3, &[&extensions]),
            ],
        );
        let signature = self.key.sign(&body)?;
        let certificate = der::tlv(der::SEQUENCE, &[&body, der::ECDSA_SHA256, &der::bits(&signature)]);
        Ok(pem("CERTIFICATE", &certificate))
    }

    fn extensions(&self, leaf: &Leaf<'_>) -> Vec<Vec<u8>> {
        // digitalSignature is bit 0, keyEncipherment bit 2; the first byte counts the unused bits.
        let usage: [u8; 2] = if leaf.key_encipherment { [5, 0b1010_0000] } else { [7, 0b1000_0000] };
        let server: &[u8] = if leaf.server { der::OID_SERVER_AUTH } else { &[] };
        let client: &[u8] = if leaf.client { der::OID_CLIENT_AUTH } else { &[] };
        let mut out = vec![
            der::extension(der::OID_KEY_USAGE, true, &der::tlv(der::BIT_STRING, &[&usage])),
            der::extension(der::OID_EXTENDED_USAGE, false, &der::tlv(der::SEQUENCE, &[server, client])),
            der::extension(der::OID_BASIC_CONSTRAINTS, true, &der::tlv(der::SEQUENCE, &[])),
        ];
        if !self.key_id.is_empty() {
            let id = der::tlv(der::SEQUENCE, &[&der::tlv(0x80, &[&self.key_id])]);
            out.push(der::extension(der::OID_AUTHORITY_KEY, false, &id));
        }
        if !leaf.alternative_names.is_empty() {
            out.push(der::extension(der::OID_SUBJECT_ALT_NAME, false, leaf.alternative_names));
        }
        out
    }
}

/// `GeneralNames` of DNS names and IP addresses; nothing for no names.
pub(crate) fn general_names(names: &[&str]) -> Result<Vec<u8>, Error> {
    let mut parts = Vec::with_capacity(names.len());
    for name in names {
        parts.push(match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => der::tlv(0x87, &[&address.octets()]),
            Ok(IpAddr::V6(address)) => der::tlv(0x87, &[&address.octets()]),
            Err(_) if is_dns_name(name) => der::tlv(0x82, &[name.as_bytes()]),
            Err(_) => return Err(Error::Name((*name).to_owned())),
        });
    }
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    Ok(der::tlv(der::SEQUENCE, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// A DNS name, perhaps with a wildcard as its first label.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label =
        |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    name.len() <= 253 && name.split('.').all(label)
}

/// A serial number: 127 random bits and never zero, so that it is positive in 16 bytes.
fn serial(random: &Random) -> [u8; 16] {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

/// Whether a certificate (DER) is signed by one of those in `ca_pem`.
pub fn is_issued_by(certificate: &[u8], ca_pem: &str) -> bool {
    use rustls_pki_types::pem::PemObject as _;
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    CertificateDer::pem_slice_iter(ca_pem.as_bytes()).flatten().any(|ca| {
        let Ok((_, ca)) = X509Certificate::from_der(&ca) else { return false };
        // The names are compared first: they cost nothing.
        ca.subject().as_raw() == certificate.issuer().as_raw()
            && certificate.verify_signature(Some(ca.public_key())).is_ok()
    })
}

/// From how long before it is made a certificate is valid: never so long that it counts as old when it is new.
fn backdate(validity: SignedDuration) -> SignedDuration {
    (validity / 100).clamp(BACKDATE, LONG_BACKDATE).min(validity / 2)
}

fn saturating_add(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

fn offset(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

/// PEM armour, 64 characters a line (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
