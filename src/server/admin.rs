//! The administrator's kubeconfig.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use serde_json::Value;
use xebec_clock::Clock;
use xebec_pki::{ClusterCa, Credentials, Kubeconfig, Validity, write_private};

use super::config::ServerConfig;

/// A year, as upstream's.
const VALIDITY: SignedDuration = SignedDuration::from_hours(365 * 24);
/// A start of the server after this part of its life makes a new one.
const RENEW_PERCENT: u8 = 50;

/// Writes `admin.kubeconfig` in the data directory, unless the one there is good for a long time to come.
pub fn write_kubeconfig(config: &ServerConfig, url: &str, ca: &ClusterCa, clock: &Clock) -> anyhow::Result<()> {
    let path = config.data_dir.join("admin.kubeconfig");
    if good(&path, url, ca, clock) {
        return Ok(());
    }
    let certified = ca
        .client_cert("kubernetes-admin", &["system:masters"], VALIDITY)
        .context("cannot make the administrator's certificate")?;
    let text = Kubeconfig {
        cluster: &config.cluster_name,
        server: url,
        ca_pem: ca.certificate_pem(),
        user: "admin",
        credentials: &Credentials::Certificate(certified),
    }
    .render();
    write_private(&path, text.as_bytes()).context("cannot write the administrator's kubeconfig")
}

fn good(path: &Path, url: &str, ca: &ClusterCa, clock: &Clock) -> bool {
    let read = || -> Option<bool> {
        let text = fs::read_to_string(path).ok()?;
        let file: Value = serde_saphyr::from_str(&text).ok()?;
        let cluster = &file["clusters"][0]["cluster"];
        let certificate = BASE64_STANDARD.decode(file["users"][0]["user"]["client-certificate-data"].as_str()?).ok()?;
        let validity = Validity::of_pem(std::str::from_utf8(&certificate).ok()?).ok()?;
        Some(
            cluster["server"] == url
                && cluster["certificate-authority-data"] == BASE64_STANDARD.encode(ca.certificate_pem())
                && clock.now() < validity.renew_at(RENEW_PERCENT),
        )
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use xebec_clock::Random;

    use super::*;

    #[test]
    fn it_is_kept_until_it_has_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, random) = (Clock::system(), Random::system());
        let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
        let config = ServerConfig { data_dir: dir.path().into(), ..ServerConfig::default() };
        let path = dir.path().join("admin.kubeconfig");
        write_kubeconfig(&config, "https://a:1", &ca, &clock).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        write_kubeconfig(&config, "https://a:1", &ca, &clock).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        write_kubeconfig(&config, "https://b:1", &ca, &clock).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("https://b:1"));
    }
}
