//! What we show to other API servers: a certificate by which they know that the headers with the user are ours.

use jiff::Timestamp;
use rustls::ClientConfig;
use xebec_pki::Validity;

use crate::webhook;

/// A certificate is replaced after this part of its life.
const RENEW_PERCENT: u8 = 50;

/// Who this server is to other API servers.
pub trait Identity: Send + Sync + 'static {
    /// Certificate and key, PEM.
    ///
    /// # Errors
    ///
    /// None can be made.
    fn certified(&self) -> Result<(String, String), String>;
}

/// How another server is spoken to, and until when. Without `verify`, it may be anybody.
pub(super) fn config(
    authorities: &[u8],
    verify: bool,
    identity: &dyn Identity,
) -> Result<(ClientConfig, Timestamp), String> {
    let mut config = webhook::tls_config(authorities)?;
    let (certificate, key) = identity.certified()?;
    let validity = Validity::of_pem(&certificate).map_err(|e| e.to_string())?;
    webhook::show(&mut config, &certificate, &key)?;
    if !verify {
        // `insecureSkipTLSVerify`.
        webhook::believe(&mut config);
    }
    Ok((config, validity.renew_at(RENEW_PERCENT)))
}
