//! What a cluster's server and agents are configured with: what the user gave, and what is the cluster's own to say.

use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ipnet::Ipv6Net;
use xebec_apiserver::bootstrap;
use xebec_clock::Random;
use xebec_pki::BootstrapToken;

use crate::agent::config as agent;
use crate::cluster::{self, Cluster, IpFamily, Paths};
use crate::server::config::{self as server, BootstrapTokenConfig, ServerConfig};
use crate::server::ranges::Ranges;

/// Configuration files that `up` was given. Without one, a cluster keeps what it has.
#[derive(Debug, clap::Args)]
pub struct Given {
    /// A configuration file for the server, as `xebec server --config` takes it; addresses and paths are the cluster's
    #[arg(long, value_name = "FILE")]
    server_config: Option<PathBuf>,
    /// A configuration file for the nodes' agents, as `xebec agent --config` takes it; names and paths are the cluster's
    #[arg(long, value_name = "FILE")]
    agent_config: Option<PathBuf>,
}

impl Given {
    /// Writes down what server and agents will read; true if they had something else before.
    pub fn write(&self, cluster: &Cluster, paths: &Paths) -> anyhow::Result<bool> {
        let server = self.server(cluster, paths)?;
        let agent = self.agent()?;
        let changed = replace(&paths.server_config(), server.as_bytes(), 0o600)?;
        Ok(match agent {
            Some(agent) => replace(&paths.agent_config(), agent.as_bytes(), 0o600)? || changed,
            None if paths.agent_config().exists() => changed,
            None => replace(&paths.agent_config(), b"", 0o600)? || changed,
        })
    }

    fn server(&self, cluster: &Cluster, paths: &Paths) -> anyhow::Result<String> {
        let kept = paths.server_config().exists().then(|| server::read(&paths.server_config())).transpose()?;
        let given = self.server_config.as_deref().map(server::read).transpose()?;
        let addresses = cluster.addresses();
        let mut config = match (&given, &kept) {
            (Some(given), _) => given.clone(),
            (None, Some(kept)) => kept.clone(),
            (None, None) => ServerConfig::default(),
        };
        config.data_dir = paths.server();
        config.bind_address = cluster.preferred(addresses.server()).addr();
        config.advertise_address = Some(config.bind_address);
        config.port = ServerConfig::default().port;
        config.cluster_name = cluster.name.context();
        if config.load_balancer_pools.is_empty() {
            if cluster.ip_family.has_v4() {
                config.load_balancer_pools.push(addresses.load_balancers().into());
            }
            if cluster.ip_family.has_v6() {
                config.load_balancer_pools.push(addresses.load_balancers6().into());
            }
        }
        add_ranges(cluster.ip_family, &mut config)?;
        config.bootstrap_tokens = match kept {
            Some(kept) if paths.join_token().exists() => kept.bootstrap_tokens,
            _ => vec![new_token(paths)?],
        };
        serde_saphyr::to_string(&config).context("cannot write YAML")
    }

    fn agent(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.agent_config else { return Ok(None) };
        // Read for its mistakes: they should show here, not in a node's log.
        agent::read(path)?;
        fs::read_to_string(path).map(Some).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Gives a cluster the ranges of IPv6 that it is to have and that nobody has given it. Pods' first family has to be the nodes'.
fn add_ranges(family: IpFamily, config: &mut ServerConfig) -> anyhow::Result<()> {
    let pods = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 56);
    let services = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112);
    let default = ServerConfig::default();
    let is_default = (config.cluster_cidr, config.service_cidr) == (default.cluster_cidr, default.service_cidr);
    match (family, config.cluster_cidr.v4(), config.service_cidr.v4()) {
        (IpFamily::Dual, Some(pods4), Some(services4))
            if config.cluster_cidr.v6().or(config.service_cidr.v6()).is_none() =>
        {
            config.cluster_cidr = Ranges::new(pods4, Some(pods));
            config.service_cidr = Ranges::new(services4, Some(services));
        }
        (IpFamily::Ipv6 | IpFamily::DualIpv6, pods4, services4) if is_default => {
            let beside = |v4| Some(v4).filter(|_| family.has_v4()).flatten();
            config.cluster_cidr = Ranges::v6_first(pods, beside(pods4));
            config.service_cidr = Ranges::v6_first(services, beside(services4));
            config.cluster_dns = bootstrap::address_in(services.into(), 10);
        }
        _ => {}
    }
    let nets = [config.cluster_cidr, config.service_cidr];
    if let Some(other) = nets.iter().find(|ranges| ranges.v4().is_some() != family.has_v4()) {
        bail!(
            "{other} is not of the family that the cluster's nodes have: give other ranges, or a new cluster another --ip-family"
        );
    }
    if let Some(other) = nets.iter().find(|ranges| ranges.prefers_v6() != family.prefers_v6()) {
        bail!(
            "{other} is not in the order of the cluster's --ip-family: give it in the other, or a new cluster dual or dual-ipv6"
        );
    }
    Ok(())
}

/// The token that the cluster's nodes join with; the server gets its hash only.
fn new_token(paths: &Paths) -> anyhow::Result<BootstrapTokenConfig> {
    let token = BootstrapToken::generate(&Random::system());
    cluster::write_atomically(&paths.join_token(), token.to_string().as_bytes(), 0o600)?;
    Ok(BootstrapTokenConfig {
        id: token.id().to_owned(),
        secret_hash: token.hash(),
        description: "the nodes of `xebec up`".into(),
    })
}

/// Makes the file hold `content`; true if it held something else.
fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<bool> {
    let before = fs::read(path).ok();
    if before.as_deref() == Some(content) {
        return Ok(false);
    }
    cluster::write_atomically(path, content, mode)?;
    Ok(before.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        paths: Paths,
        cluster: Cluster,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), run: dir.path().join("run") };
        fs::create_dir_all(&paths.state).unwrap();
        let cluster = serde_json::from_value(serde_json::json!({"name": "try", "index": 7, "nodes": 1})).unwrap();
        Place { _dir: dir, paths, cluster }
    }

    fn file(place: &Place, text: &str) -> Option<PathBuf> {
        let path = place.paths.state.join("given.yaml");
        fs::write(&path, text).unwrap();
        Some(path)
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let place = place();
        let nothing = Given { server_config: None, agent_config: None };
        assert!(!nothing.write(&place.cluster, &place.paths).unwrap(), "there was nothing before");
        let token = fs::read(place.paths.join_token()).unwrap();
        assert!(!nothing.write(&place.cluster, &place.paths).unwrap());
        assert_eq!(fs::read(place.paths.join_token()).unwrap(), token);
    }

    #[test]
    fn what_is_given_is_kept_and_addresses_are_the_clusters() {
        let place = place();
        let nothing = Given { server_config: None, agent_config: None };
        nothing.write(&place.cluster, &place.paths).unwrap();
        let before = server::read(&place.paths.server_config()).unwrap();
        let given = file(&place, "clusterDomain: example.org\nport: 1\n");
        let given = Given { server_config: given, agent_config: None };
        assert!(given.write(&place.cluster, &place.paths).unwrap());
        assert!(!nothing.write(&place.cluster, &place.paths).unwrap(), "it is kept");
        let after = server::read(&place.paths.server_config()).unwrap();
        let expected = ServerConfig { cluster_domain: "example.org".into(), ..before };
        assert_eq!(after, expected);
    }

    #[test]
    fn a_cluster_of_both_families_has_ranges_and_pools_of_both() {
        let mut place = place();
        place.cluster.ip_family = IpFamily::Dual;
        let nothing = Given { server_config: None, agent_config: None };
        nothing.write(&place.cluster, &place.paths).unwrap();
        let config = server::read(&place.paths.server_config()).unwrap();
        assert_eq!(config.cluster_cidr.to_string(), "10.244.0.0/16,fd00:10:244::/56");
        assert_eq!(config.service_cidr.to_string(), "10.96.0.0/16,fd00:10:96::/112");
        assert_eq!(config.load_balancer_pools.len(), 2);
        assert_eq!(config.pod_ranges().len(), 2);
    }

    #[test]
    fn ipv6_may_come_first() {
        let mut place = place();
        place.cluster.ip_family = IpFamily::DualIpv6;
        let nothing = Given { server_config: None, agent_config: None };
        nothing.write(&place.cluster, &place.paths).unwrap();
        let config = server::read(&place.paths.server_config()).unwrap();
        assert_eq!(config.cluster_cidr.to_string(), "fd00:10:244::/56,10.244.0.0/16");
        assert_eq!(config.service_cidr.to_string(), "fd00:10:96::/112,10.96.0.0/16");
        assert_eq!(
            (config.cluster_dns.to_string(), config.bind_address.to_string()),
            ("fd00:10:96::a".into(), "fd00:172:30:7::2".into())
        );
        assert_eq!(config.load_balancer_pools.len(), 2);
        let own = place.cluster.in_families(place.cluster.addresses().node(1));
        assert_eq!(own.iter().map(ToString::to_string).collect::<Vec<_>>(), ["fd00:172:30:7::b/64", "172.30.7.11/24"]);
        assert!(!nothing.write(&place.cluster, &place.paths).unwrap(), "it is kept");
        place.cluster.ip_family = IpFamily::Dual;
        let error = nothing.write(&place.cluster, &place.paths).unwrap_err().to_string();
        assert!(error.contains("not in the order"), "{error}");
        assert_eq!(serde_json::to_string(&IpFamily::DualIpv6).unwrap(), "\"dual-ipv6\"");
    }

    #[test]
    fn a_cluster_of_ipv6_alone_has_nothing_of_the_other() {
        let mut place = place();
        place.cluster.ip_family = IpFamily::Ipv6;
        let nothing = Given { server_config: None, agent_config: None };
        nothing.write(&place.cluster, &place.paths).unwrap();
        let config = server::read(&place.paths.server_config()).unwrap();
        assert_eq!(config.cluster_cidr.to_string(), "fd00:10:244::/56");
        assert_eq!(config.service_cidr.to_string(), "fd00:10:96::/112");
        assert_eq!(
            (config.cluster_dns.to_string(), config.bind_address.to_string()),
            ("fd00:10:96::a".into(), "fd00:172:30:7::2".into())
        );
        assert_eq!(
            config.load_balancer_pools.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["fd00:172:30:7::1:0/112"]
        );
        assert!(!nothing.write(&place.cluster, &place.paths).unwrap(), "it is kept");
        let given = file(&place, "clusterCidr: 10.50.0.0/16\n");
        let error = Given { server_config: given, agent_config: None }.write(&place.cluster, &place.paths).unwrap_err();
        assert!(error.to_string().starts_with("10.50.0.0/16 is not of the family"), "{error:#}");
    }

    #[test]
    fn a_mistake_is_named_and_nothing_is_written() {
        let place = place();
        let given = file(&place, "tunel: always\n");
        let given = Given { server_config: None, agent_config: given };
        let error = format!("{:#}", given.write(&place.cluster, &place.paths).unwrap_err());
        assert!(error.contains("tunel"), "{error}");
        assert!(!place.paths.server_config().exists());
    }
}
