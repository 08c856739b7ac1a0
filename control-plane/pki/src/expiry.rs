//! When a certificate ends, and when to replace it.

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// A certificate's validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

impl Validity {
    /// The validity of the first certificate in `pem`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if there is none.
    pub fn of_pem(pem: &str) -> Result<Self, Error> {
        let what = "the certificate";
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::malformed(what, e))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| Error::malformed(what, e))?;
        Ok(Self::of(&parsed))
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let at = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).unwrap_or(Timestamp::MAX);
        Self { not_before: at(certificate.validity().not_before), not_after: at(certificate.validity().not_after) }
    }

    /// Whether it is over at `now`.
    pub fn expired(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// When to replace it: after `percent` of its life. Upstream's kubelet takes 70 to 90, at random, so that nodes
    /// do not all ask at once.
    pub fn renew_at(&self, percent: u8) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        let seconds = i128::from(life.as_secs()) * i128::from(percent.min(100)) / 100;
        let part = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
        self.not_before.checked_add(part).unwrap_or(self.not_after)
    }
}
