//! Which CA to trust: given as a file, kept from before, or found by its hash.
//!
//! With `--ca-hash`, the server is asked for its certificates without trust; the one of them that has the hash is the
//! CA, and only if the server's own comes from it is anything said to the server.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `sha256:` and the SHA-256 of the CA certificate (PEM) in hexadecimal: what `--ca-hash` takes.
pub fn pin(ca_pem: &[u8]) -> anyhow::Result<String> {
    let certificate = CertificateDer::from_pem_slice(ca_pem).context("the CA certificate is not PEM")?;
    Ok(pin_der(&certificate))
}

fn pin_der(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate.as_ref());
    format!("sha256:{}", digest.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// Checks the form of a pin.
pub fn parse_pin(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a CA hash is sha256: and 64 hexadecimal digits, as `xebec token create` prints it".into())
    }
}

/// Asks the server at `server` (`https://HOST:PORT`) for its CA certificate, the one with this hash. PEM.
pub async fn by_pin(server: &http::Uri, pin: &str) -> anyhow::Result<String> {
    let host = server.host().context("the server's address has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(443);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        Arc::new(PinVerifier { pin: pin.to_owned(), provider: Arc::clone(&provider), found: Mutex::default() });
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is not a host name"))?;
    let connect = async {
        let stream = TcpStream::connect((host, port)).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    match timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => bail!("cannot verify {server} by its CA's hash: {e}"),
        Err(_) => bail!("{server} does not answer"),
    }
    let found = verifier.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(to_pem(&found.context("the server showed no certificates")?))
}

fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// Reads a CA certificate that may only be written in a moment, by a server that is starting as well.
pub async fn from_file(path: &Path, patience: Duration) -> anyhow::Result<String> {
    let read = async {
        loop {
            match tokio::fs::read_to_string(path).await {
                Ok(text) if text.contains("-----END CERTIFICATE-----") => return Ok(text),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context(format!("cannot read {}", path.display())),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let text =
        timeout(patience, read).await.unwrap_or_else(|_| bail!("there is no CA certificate at {}", path.display()))?;
    ensure!(CertificateDer::from_pem_slice(text.as_bytes()).is_ok(), "{} is not a certificate", path.display());
    Ok(text)
}

/// Trusts a server whose certificate comes from a CA with the hash, which it shows along.
struct PinVerifier {
    pin: String,
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinVerifier").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates.iter().find(|c| pin_der(c) == self.pin);
        let ca = ca.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tokio::net::TcpListener;
    use xebec_clock::{Clock, Random};
    use xebec_pki::{Certified, ClusterCa, ServerTls, server_config};

    use super::*;

    /// A server with a certificate of `ca` that shows `shown` along.
    async fn server(ca: &ClusterCa, shown: &str) -> http::Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let own = ca.server_cert("server", &["127.0.0.1"], SignedDuration::from_hours(1)).unwrap();
        let certified = Certified { certificate_pem: own.certificate_pem + shown, key_pem: own.key_pem };
        let tls = ServerTls { certified: &certified, client_ca_pem: ca.certificate_pem() };
        let config = server_config(&tls, &Clock::system()).unwrap();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        uri
    }

    #[tokio::test]
    async fn only_the_ca_with_the_hash_is_trusted() {
        let (clock, random) = (Clock::system(), Random::system());
        let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
        let other = ClusterCa::ephemeral(&clock, &random).unwrap();
        let pinned = pin(ca.certificate_pem().as_bytes()).unwrap();
        assert_eq!(parse_pin(&pinned), Ok(pinned.clone()));
        let found = by_pin(&server(&ca, ca.certificate_pem()).await, &pinned).await.unwrap();
        assert_eq!(pin(found.as_bytes()).unwrap(), pinned);
        // One that shows another CA, and one that shows the right CA with a certificate that is not of it.
        assert!(by_pin(&server(&other, other.certificate_pem()).await, &pinned).await.is_err());
        assert!(by_pin(&server(&other, ca.certificate_pem()).await, &pinned).await.is_err());
    }

    #[test]
    fn pins_have_a_form() {
        for wrong in ["", "sha256:", "sha256:zz", "md5:00", &"0".repeat(64)] {
            assert!(parse_pin(wrong).is_err(), "{wrong}");
        }
    }
}
