//! What the server shows: a certificate of the cluster's CA, made anew in time, with the CA's own behind it so that
//! agents can find it by its hash.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_pki::{Certified, ClusterCa, ServerTls, server_config};

use crate::renewing::Renewing;

/// A year, as upstream.
const VALIDITY: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Long before it ends.
const RENEW_AFTER: Duration = Duration::from_secs(180 * 24 * 3600);

/// The server's TLS. Clients may show certificates of the cluster's CA and of that of front proxies. The server's own is
/// renewed until `stop`.
pub fn config(
    ca: &Arc<ClusterCa>,
    names: &[String],
    proxies_ca_pem: &str,
    clock: &Clock,
    stop: &CancellationToken,
) -> anyhow::Result<rustls::ServerConfig> {
    let clients = format!("{}{proxies_ca_pem}", ca.certificate_pem());
    let first = make(ca, &clients, names, clock)?;
    let (renewing, config) = Renewing::new(first);
    let (ca, names, clock, stop) = (Arc::clone(ca), names.to_vec(), clock.clone(), stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(RENEW_AFTER).await;
            match make(&ca, &clients, &names, &clock) {
                Ok(new) => renewing.renew(&new),
                Err(e) => tracing::error!("cannot renew the server's certificate: {e:#}"),
            }
        }
    }));
    Ok(config)
}

fn make(
    ca: &ClusterCa,
    client_ca_pem: &str,
    names: &[String],
    clock: &Clock,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let own = ca.server_cert("kube-apiserver", &names, VALIDITY).context("cannot make the server's certificate")?;
    let certificate_pem = own.certificate_pem + ca.certificate_pem();
    let certified = Certified { certificate_pem, key_pem: own.key_pem };
    server_config(&ServerTls { certified: &certified, client_ca_pem }, clock).context("cannot set up TLS")
}
