//! The configuration of `xebec server`: a YAML file, and flags that go before it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use xebec_apiserver::admission::PodSecurityConfig;
use xebec_apiserver::authn::oidc::config::AuthenticationConfig;
use xebec_apiserver::authn::webhook::TokenWebhookConfig;
use xebec_apiserver::authz::config::AuthorizationConfig;
use xebec_apiserver::bootstrap;
use xebec_apiserver::webhook::kubeconfig::Kubeconfig;
use xebec_controllers::nodeipam;

use super::ranges::Ranges;

/// How long the answers of a webhook for tokens are good for, and which reviews it gets, unless configured.
const WEBHOOK_TTL: SignedDuration = SignedDuration::from_mins(2);
const WEBHOOK_VERSION: &str = "v1beta1";

/// What a server can be told. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where the store, the keys and the certificates are kept.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind_address: IpAddr,
    /// The address that others reach this server by; without it, that of the way to the default gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<IpAddr>,
    /// The port to listen on.
    pub port: u16,
    /// Further names and addresses that the server's certificate is good for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_names: Vec<String>,
    /// What the cluster is called in the administrator's kubeconfig.
    pub cluster_name: String,
    /// The pods' addresses: a network of either family, or for dual stack `IPV4,IPV6`.
    pub cluster_cidr: Ranges,
    /// How long the prefix of one node's share of them is.
    pub node_prefix: u8,
    /// And that of its share of the IPv6 ones.
    pub node_prefix_ipv6: u8,
    /// The services' addresses, likewise.
    pub service_cidr: Ranges,
    /// The address of the cluster's DNS, one of the services'; of dual stack's other family it has the tenth.
    pub cluster_dns: IpAddr,
    /// The domain of the cluster's names.
    pub cluster_domain: String,
    /// `FIRST-LAST`.
    pub node_port_range: String,
    /// Addresses for services of type LoadBalancer: networks, of which the first and last address are left out.
    pub load_balancer_pools: Vec<IpNet>,
    /// Tokens that nodes may join with from the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bootstrap_tokens: Vec<BootstrapTokenConfig>,
    /// What is noted of requests (`audit.k8s.io/v1 Policy`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where it is noted; `-` is standard output. Nothing is noted without both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_path: Option<PathBuf>,
    /// How many days old files of the audit log are kept; 0: for ever.
    #[serde(skip_serializing_if = "is_default")]
    pub audit_log_maxage: u64,
    /// How many old files of the audit log are kept; 0: all.
    #[serde(skip_serializing_if = "is_default")]
    pub audit_log_maxbackup: usize,
    /// How many megabytes a file of the audit log holds; 0: 100.
    #[serde(skip_serializing_if = "is_default")]
    pub audit_log_maxsize: u64,
    /// Whether old files of the audit log are compressed.
    #[serde(skip_serializing_if = "is_default")]
    pub audit_log_compress: bool,
    /// The CA of front proxies, which may say by headers who their users are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// The common names that front proxies may have; any, if empty.
    pub requestheader_allowed_names: Vec<String>,
    /// Where a front proxy puts the user's name.
    pub requestheader_username_headers: Vec<String>,
    /// Where a front proxy puts the user's UID.
    pub requestheader_uid_headers: Vec<String>,
    /// Where a front proxy puts the user's groups.
    pub requestheader_group_headers: Vec<String>,
    /// What the headers begin with in which a front proxy says more of the user.
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// What is encrypted in the store (`apiserver.config.k8s.io/v1 EncryptionConfiguration`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether that file is read again when it changes.
    #[serde(skip_serializing_if = "is_default")]
    pub encryption_provider_config_automatic_reload: bool,
    /// The URLs of an etcd cluster that objects are kept in; without any, they are kept in `data_dir`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub etcd_servers: Vec<String>,
    /// The authority of etcd's certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate that etcd is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What applies to pods in namespaces whose labels do not say, and to whom it does not apply.
    #[serde(skip_serializing_if = "is_default")]
    pub pod_security: PodSecurityConfig,
    /// A file with an `AuthenticationConfiguration`: issuers of tokens, and who is let in without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_config: Option<PathBuf>,
    /// A kubeconfig of a webhook that is asked about tokens that nobody else knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are good for.
    #[serde(skip_serializing_if = "is_usual_webhook_ttl")]
    pub authentication_token_webhook_cache_ttl: SignedDuration,
    /// The version of the TokenReviews that it gets: v1 or v1beta1.
    #[serde(skip_serializing_if = "is_usual_webhook_version")]
    pub authentication_token_webhook_version: String,
    /// A file with an `AuthorizationConfiguration`: who decides what users may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_config: Option<PathBuf>,
    /// How long certificates are good for that nodes and others ask for, at most.
    #[serde(skip_serializing_if = "is_usual_signing_duration")]
    pub cluster_signing_duration: SignedDuration,
}

fn is_usual_signing_duration(duration: &SignedDuration) -> bool {
    *duration == xebec_controllers::CLUSTER_SIGNING_DURATION
}

fn is_usual_webhook_ttl(ttl: &SignedDuration) -> bool {
    *ttl == WEBHOOK_TTL
}

fn is_usual_webhook_version(version: &str) -> bool {
    version == WEBHOOK_VERSION
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A join token, without its secret half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapTokenConfig {
    /// The token's public half.
    pub id: String,
    /// The SHA-256 of its secret half, in hexadecimal.
    pub secret_hash: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/xebec-server".into(),
            bind_address: Ipv4Addr::UNSPECIFIED.into(),
            advertise_address: None,
            port: 6443,
            tls_names: Vec::new(),
            cluster_name: "xebec".into(),
            cluster_cidr: Ranges::new(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16), None),
            node_prefix: 24,
            node_prefix_ipv6: 64,
            service_cidr: Ranges::new(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16), None),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10).into(),
            cluster_domain: "cluster.local".into(),
            node_port_range: "30000-32767".into(),
            load_balancer_pools: Vec::new(),
            bootstrap_tokens: Vec::new(),
            audit_policy_file: None,
            audit_log_path: None,
            audit_log_maxage: 0,
            audit_log_maxbackup: 0,
            audit_log_maxsize: 0,
            audit_log_compress: false,
            requestheader_client_ca_file: None,
            requestheader_allowed_names: Vec::new(),
            requestheader_username_headers: vec!["X-Remote-User".into()],
            requestheader_uid_headers: vec!["X-Remote-Uid".into()],
            requestheader_group_headers: vec!["X-Remote-Group".into()],
            requestheader_extra_headers_prefix: vec!["X-Remote-Extra-".into()],
            encryption_provider_config: None,
            encryption_provider_config_automatic_reload: false,
            etcd_servers: Vec::new(),
            etcd_cafile: None,
            etcd_certfile: None,
            etcd_keyfile: None,
            pod_security: PodSecurityConfig::default(),
            authentication_config: None,
            authentication_token_webhook_config_file: None,
            authentication_token_webhook_cache_ttl: WEBHOOK_TTL,
            authentication_token_webhook_version: WEBHOOK_VERSION.into(),
            authorization_config: None,
            cluster_signing_duration: xebec_controllers::CLUSTER_SIGNING_DURATION,
        }
    }
}

/// Runs the API server, the controllers and the scheduler. Flags go before what the configuration file says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// A configuration file (YAML; its fields are called as the flags are, in camelCase)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where the store, the keys and the certificates are kept [default: /var/lib/xebec-server]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The address to listen on [default: 0.0.0.0]
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// The address others reach this server by [default: that of the default route]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// The port to listen on [default: 6443]
    #[arg(long)]
    port: Option<u16>,
    /// A further name or address the server's certificate is good for
    #[arg(long = "tls-name")]
    tls_names: Vec<String>,
    /// The pods' addresses, of IPv4 or IPv6; for dual stack of both, the preferred first: IPV4,IPV6 or IPV6,IPV4
    /// [default: 10.244.0.0/16]
    #[arg(long)]
    cluster_cidr: Option<Ranges>,
    /// The services' addresses; for dual stack of both, in the order of the pods' [default: 10.96.0.0/16]
    #[arg(long, alias = "service-cluster-ip-range")]
    service_cidr: Option<Ranges>,
    /// How long the prefix of a node's share of the pods' IPv6 addresses is [default: 64]
    #[arg(long, alias = "node-cidr-mask-size-ipv6")]
    node_prefix_ipv6: Option<u8>,
    /// The address of the cluster's DNS [default: 10.96.0.10]
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
    /// The domain of the cluster's names [default: cluster.local]
    #[arg(long)]
    cluster_domain: Option<String>,
    /// Ports for services of type NodePort [default: 30000-32767]
    #[arg(long)]
    node_port_range: Option<String>,
    /// A network of addresses for services of type LoadBalancer; may be given again
    #[arg(long = "load-balancer-pool")]
    load_balancer_pools: Vec<IpNet>,
    /// What to note of requests: a file of kind Policy, audit.k8s.io/v1
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// Where to note it; "-" is standard output
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// How many days old audit logs are kept [default: for ever]
    #[arg(long)]
    audit_log_maxage: Option<u64>,
    /// How many old audit logs are kept [default: all]
    #[arg(long)]
    audit_log_maxbackup: Option<usize>,
    /// How many megabytes an audit log holds [default: 100]
    #[arg(long)]
    audit_log_maxsize: Option<u64>,
    /// Compress old audit logs
    #[arg(long)]
    audit_log_compress: bool,
    /// The CA (PEM) of front proxies, which may say by headers who their users are
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// The common names that front proxies may have; any, if empty; a list with commas
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Where a front proxy puts the user's name; a list with commas [default: X-Remote-User]
    #[arg(long, value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Where a front proxy puts the user's UID; a list with commas [default: X-Remote-Uid]
    #[arg(long, value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Where a front proxy puts the user's groups; a list with commas [default: X-Remote-Group]
    #[arg(long, value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// What the headers begin with in which a front proxy says more of the user; a list with commas [default: X-Remote-Extra-]
    #[arg(long, value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// What to encrypt in the store: a file of kind EncryptionConfiguration, apiserver.config.k8s.io/v1
    #[arg(long)]
    encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes
    #[arg(long)]
    encryption_provider_config_automatic_reload: bool,
    /// The URLs of an etcd cluster to keep objects in, with commas; by default, they are kept in the data directory
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// The authority of etcd's certificates
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// A file with an AuthenticationConfiguration: issuers of tokens, and who is let in without credentials
    #[arg(long)]
    authentication_config: Option<PathBuf>,
    /// A kubeconfig of a webhook to ask about tokens that nobody else knows
    #[arg(long)]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are good for [default: 2m]
    #[arg(long)]
    authentication_token_webhook_cache_ttl: Option<SignedDuration>,
    /// The version of the TokenReviews that it gets, v1 or v1beta1 [default: v1beta1]
    #[arg(long)]
    authentication_token_webhook_version: Option<String>,
    /// A file with an AuthorizationConfiguration: who decides what users may do [default: Node and RBAC]
    #[arg(long)]
    authorization_config: Option<PathBuf>,
    /// How long certificates are good for that nodes and others ask for, at most [default: 8760h]
    #[arg(long)]
    cluster_signing_duration: Option<SignedDuration>,
}

impl Args {
    /// The file and the flags together, checked.
    pub fn load(self) -> anyhow::Result<ServerConfig> {
        let mut config = match &self.config {
            Some(path) => read(path)?,
            None => ServerConfig::default(),
        };
        let dns_given = self.cluster_dns.is_some();
        let service_cidr_given = self.service_cidr.is_some();
        replace(&mut config.data_dir, self.data_dir);
        replace(&mut config.bind_address, self.bind_address);
        config.advertise_address = self.advertise_address.or(config.advertise_address);
        replace(&mut config.port, self.port);
        config.tls_names.extend(self.tls_names);
        replace(&mut config.cluster_cidr, self.cluster_cidr);
        replace(&mut config.service_cidr, self.service_cidr);
        replace(&mut config.node_prefix_ipv6, self.node_prefix_ipv6);
        replace(&mut config.cluster_dns, self.cluster_dns);
        replace(&mut config.cluster_domain, self.cluster_domain);
        replace(&mut config.node_port_range, self.node_port_range);
        if !self.load_balancer_pools.is_empty() {
            config.load_balancer_pools = self.load_balancer_pools;
        }
        config.audit_policy_file = self.audit_policy_file.or(config.audit_policy_file);
        config.audit_log_path = self.audit_log_path.or(config.audit_log_path);
        replace(&mut config.audit_log_maxage, self.audit_log_maxage);
        replace(&mut config.audit_log_maxbackup, self.audit_log_maxbackup);
        replace(&mut config.audit_log_maxsize, self.audit_log_maxsize);
        config.audit_log_compress |= self.audit_log_compress;
        config.requestheader_client_ca_file = self.requestheader_client_ca_file.or(config.requestheader_client_ca_file);
        replace_list(&mut config.requestheader_allowed_names, self.requestheader_allowed_names);
        replace_list(&mut config.requestheader_username_headers, self.requestheader_username_headers);
        replace_list(&mut config.requestheader_uid_headers, self.requestheader_uid_headers);
        replace_list(&mut config.requestheader_group_headers, self.requestheader_group_headers);
        replace_list(&mut config.requestheader_extra_headers_prefix, self.requestheader_extra_headers_prefix);
        config.encryption_provider_config = self.encryption_provider_config.or(config.encryption_provider_config);
        config.encryption_provider_config_automatic_reload |= self.encryption_provider_config_automatic_reload;
        replace_list(&mut config.etcd_servers, self.etcd_servers);
        config.etcd_cafile = self.etcd_cafile.or(config.etcd_cafile);
        config.etcd_certfile = self.etcd_certfile.or(config.etcd_certfile);
        config.etcd_keyfile = self.etcd_keyfile.or(config.etcd_keyfile);
        if service_cidr_given && !dns_given && !config.service_cidr.preferred().contains(&config.cluster_dns) {
            // The tenth address, as everywhere.
            config.cluster_dns = bootstrap::address_in(config.service_cidr.preferred(), 10);
        }
        config.authentication_config = self.authentication_config.or(config.authentication_config);
        replace(&mut config.cluster_signing_duration, self.cluster_signing_duration);
        config.authentication_token_webhook_config_file =
            self.authentication_token_webhook_config_file.or(config.authentication_token_webhook_config_file);
        replace(&mut config.authentication_token_webhook_cache_ttl, self.authentication_token_webhook_cache_ttl);
        replace(&mut config.authentication_token_webhook_version, self.authentication_token_webhook_version);
        config.authorization_config = self.authorization_config.or(config.authorization_config);
        config.check()?;
        Ok(config)
    }
}

fn replace<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

fn replace_list<T>(field: &mut Vec<T>, flag: Vec<T>) {
    if !flag.is_empty() {
        *field = flag;
    }
}

/// Reads a configuration file.
///
/// # Errors
///
/// If there is none, or it is not what it should be; the field is named.
pub fn read(path: &Path) -> anyhow::Result<ServerConfig> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(ServerConfig::default());
    }
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not a server's configuration", path.display()))
}

fn yaml(path: &Path) -> anyhow::Result<serde_json::Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))
}

impl ServerConfig {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.data_dir.is_absolute(), "the data directory {} is not an absolute path", self.data_dir.display());
        ensure!(self.port != 0, "the port must be 1 to 65535");
        self.check_ranges()?;
        self.node_ports()?;
        self.pod_security.policy().map_err(anyhow::Error::msg)?;
        ensure!(
            self.audit_policy_file.is_none() || self.audit_log_path.is_some(),
            "audit-policy-file says what to note; say where, too, by audit-log-path"
        );
        ensure!(
            self.audit_log_path.is_none() || self.audit_policy_file.is_some(),
            "audit-log-path says where to note requests; say what, too, by audit-policy-file"
        );
        self.authentication()?;
        self.token_webhook()?;
        self.authorization()?;
        let life = self.cluster_signing_duration;
        ensure!(life > SignedDuration::ZERO, "cluster-signing-duration {life:#} must be longer than nothing");
        Ok(())
    }

    fn check_ranges(&self) -> anyhow::Result<()> {
        let (pods, services) = (&self.cluster_cidr, &self.service_cidr);
        pods.check("cluster-cidr", 8..=28, 16..=112)?;
        // As upstream: of an IPv6 range for services no more than 20 bits can be given out.
        services.check("service-cidr", 8..=28, 108..=124)?;
        ensure!(!pods.overlap(services), "cluster-cidr {pods} and service-cidr {services} overlap");
        ensure!(
            pods.v4().is_some() == services.v4().is_some() && pods.v6().is_some() == services.v6().is_some(),
            "cluster-cidr {pods} and service-cidr {services} must be of the same families"
        );
        ensure!(
            pods.prefers_v6() == services.prefers_v6(),
            "cluster-cidr {pods} and service-cidr {services} must name the same family first"
        );
        if let Some(v4) = pods.v4() {
            ensure!(
                (v4.prefix_len()..=30).contains(&self.node_prefix),
                "a node's share of {pods} can't be a /{}",
                self.node_prefix
            );
        }
        if let Some(v6) = pods.v6() {
            // Upstream's bounds; and a pod's IPv6 address must have room for the number that its IPv4 one has, or for as many
            // as in the usual share of IPv4.
            let room = if pods.v4().is_some() { 96 + self.node_prefix } else { 120 };
            let (shortest, longest) = (v6.prefix_len(), v6.prefix_len().saturating_add(16).min(room));
            ensure!(
                (shortest..=longest).contains(&self.node_prefix_ipv6),
                "a node's share of {v6} can't be a /{}: node-prefix-ipv6 must be {shortest} to {longest}",
                self.node_prefix_ipv6
            );
        }
        let (dns, first) = (self.cluster_dns, services.preferred());
        ensure!(first.contains(&dns), "cluster-dns {dns} is not in {first}");
        Ok(())
    }

    /// The cluster's DNS addresses, the preferred one first.
    pub fn dns_addresses(&self) -> Vec<IpAddr> {
        let second = self.service_cidr.all().into_iter().nth(1).map(|net| bootstrap::address_in(net, 10));
        [self.cluster_dns].into_iter().chain(second).collect()
    }

    /// The pods' ranges, with the nodes' shares.
    pub fn pod_ranges(&self) -> Vec<nodeipam::Range> {
        let share = |net: IpNet| nodeipam::Range {
            cluster: net,
            node_prefix: if matches!(net, IpNet::V4(_)) { self.node_prefix } else { self.node_prefix_ipv6 },
        };
        self.cluster_cidr.all().into_iter().map(share).collect()
    }

    /// Who is let in, as the file says.
    ///
    /// # Errors
    ///
    /// If there is no such file, or something is wrong with it; the field is named.
    pub fn authentication(&self) -> anyhow::Result<AuthenticationConfig> {
        let Some(path) = &self.authentication_config else { return Ok(AuthenticationConfig::default()) };
        AuthenticationConfig::read(&yaml(path)?).with_context(|| path.display().to_string())
    }

    /// Who is asked about tokens that nobody else knows, as the files say.
    ///
    /// # Errors
    ///
    /// If something is wrong with them; the field is named.
    pub fn token_webhook(&self) -> anyhow::Result<Option<TokenWebhookConfig>> {
        let version = self.authentication_token_webhook_version.clone();
        ensure!(
            matches!(version.as_str(), "v1" | "v1beta1"),
            "authentication-token-webhook-version {version:?} must be v1 or v1beta1"
        );
        let ttl = self.authentication_token_webhook_cache_ttl;
        let cache_ttl = Duration::try_from(ttl)
            .map_err(|_| anyhow::anyhow!("authentication-token-webhook-cache-ttl {ttl:#} must not be negative"))?;
        let Some(path) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let kubeconfig = Kubeconfig::read(path).context("authentication-token-webhook-config-file")?;
        Ok(Some(TokenWebhookConfig { kubeconfig, cache_ttl, version }))
    }

    /// Who decides what users may do, as the file says.
    ///
    /// # Errors
    ///
    /// If there is no such file, or something is wrong with it; the field is named.
    pub fn authorization(&self) -> anyhow::Result<Option<AuthorizationConfig>> {
        let Some(path) = &self.authorization_config else { return Ok(None) };
        AuthorizationConfig::read(&yaml(path)?).map(Some).with_context(|| path.display().to_string())
    }

    /// The node ports' range, both ends in it.
    pub fn node_ports(&self) -> anyhow::Result<(u16, u16)> {
        let text = &self.node_port_range;
        let parsed = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match parsed {
            Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
            _ => bail!("node-port-range {text:?} is not FIRST-LAST, such as 30000-32767"),
        }
    }

    /// The first address of the services' range: that of the service `kubernetes`.
    pub fn kubernetes_service(&self) -> IpAddr {
        bootstrap::address_in(self.service_cidr.preferred(), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, flags: Args) -> anyhow::Result<ServerConfig> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("server.yaml");
        fs::write(&path, yaml)?;
        Args { config: Some(path), ..flags }.load()
    }

    #[test]
    fn flags_go_before_the_file() {
        let flags = Args { port: Some(7000), ..Args::default() };
        let config = load("port: 6000\ndataDir: /x\nclusterDomain: example.org\n", flags).unwrap();
        assert_eq!((config.port, config.cluster_domain.as_str()), (7000, "example.org"));
        assert_eq!(load("", Args::default()).unwrap(), ServerConfig::default());
    }

    #[test]
    fn the_dns_address_follows_the_services() {
        let flags = Args { service_cidr: Some("10.43.0.0/16".parse().unwrap()), ..Args::default() };
        let config = load("", flags).unwrap();
        assert_eq!(config.cluster_dns, IpAddr::from([10, 43, 0, 10]));
        assert_eq!(config.kubernetes_service(), IpAddr::from([10, 43, 0, 1]));
    }

    #[test]
    fn two_families() {
        let yaml = "clusterCidr: 10.244.0.0/16,fd00:10:244::/56\nserviceCidr: 10.96.0.0/16,fd00:10:96::/112\n";
        let config = load(yaml, Args::default()).unwrap();
        let texts = |all: Vec<IpAddr>| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(config.dns_addresses()), ["10.96.0.10", "fd00:10:96::a"]);
        let shares: Vec<u8> = config.pod_ranges().iter().map(|range| range.node_prefix).collect();
        assert_eq!(shares, [24, 64]);
        assert_eq!(load(&serde_saphyr::to_string(&config).unwrap(), Args::default()).unwrap(), config);
    }

    #[test]
    fn two_families_with_ipv6_first() {
        let yaml = "clusterCidr: fd00:10:244::/56,10.244.0.0/16\n";
        let services = Some("fd00:10:96::/112,10.96.0.0/16".parse().unwrap());
        let config = load(yaml, Args { service_cidr: services, ..Args::default() }).unwrap();
        let texts = |all: Vec<IpAddr>| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(config.dns_addresses()), ["fd00:10:96::a", "10.96.0.10"]);
        assert_eq!(config.kubernetes_service(), "fd00:10:96::1".parse::<IpAddr>().unwrap());
        let shares: Vec<u8> = config.pod_ranges().iter().map(|range| range.node_prefix).collect();
        assert_eq!(shares, [64, 24]);
        assert_eq!(load(&serde_saphyr::to_string(&config).unwrap(), Args::default()).unwrap(), config);
    }

    #[test]
    fn ipv6_alone() {
        let yaml = "clusterCidr: fd00:10:244::/56\n";
        let flags = Args { service_cidr: Some("fd00:10:96::/112".parse().unwrap()), ..Args::default() };
        let config = load(yaml, flags).unwrap();
        assert_eq!(config.dns_addresses(), ["fd00:10:96::a".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.kubernetes_service(), "fd00:10:96::1".parse::<IpAddr>().unwrap());
        let shares: Vec<_> = config.pod_ranges().iter().map(|range| (range.cluster, range.node_prefix)).collect();
        assert_eq!(shares, [("fd00:10:244::/56".parse().unwrap(), 64)]);
        assert_eq!(load(&serde_saphyr::to_string(&config).unwrap(), Args::default()).unwrap(), config);
    }

    #[test]
    fn mistakes_are_named() {
        for (yaml, says) in [
            ("prot: 1", "prot"),
            ("clusterCidr: 10.244.1.0/16", "did you mean 10.244.0.0/16"),
            ("serviceCidr: 10.244.128.0/20\nclusterDns: 10.244.128.10", "overlap"),
            ("clusterDns: 1.2.3.4", "is not in 10.96.0.0/16"),
            ("clusterCidr: 10.244.0.0/16,fd00:244::/56", "must be of the same families"),
            ("clusterCidr: fd00:244::/56", "must be of the same families"),
            (
                "clusterCidr: fd00:244::/56,10.244.0.0/16\nserviceCidr: 10.96.0.0/16,fd00:96::/112",
                "must name the same family first",
            ),
            (
                "clusterCidr: fd00:244::/56\nserviceCidr: fd00:96::/112",
                "cluster-dns 10.96.0.10 is not in fd00:96::/112",
            ),
            ("clusterCidr: 10.244.0.0/16,fd00::/56\nserviceCidr: 10.96.0.0/16,fd01::/64", "must be 108 to 124 bits"),
            ("clusterCidr: 10.244.0.0/16,fd00::/40\nserviceCidr: 10.96.0.0/16,fd01::/112", "must be 40 to 56"),
            ("nodePortRange: '32767-30000'", "FIRST-LAST"),
            ("loadBalancerPools: [x]", "loadBalancerPools"),
            ("dataDir: here", "absolute"),
            ("auditLogPath: /x", "audit-policy-file"),
            ("podSecurity: {defaults: {enforce: strict}}", "must be one of privileged, baseline, restricted"),
            ("authenticationTokenWebhookVersion: v2", "must be v1 or v1beta1"),
            ("authenticationTokenWebhookConfigFile: /nowhere/at/all", "/nowhere/at/all: "),
            ("authorizationConfig: /nowhere/at/all", "cannot read /nowhere/at/all"),
            ("clusterSigningDuration: -1h", "must be longer than nothing"),
            ("podSecurity: {defaults: {level: baseline}}", "there is no \"level\""),
        ] {
            let error = format!("{:#}", load(yaml, Args::default()).unwrap_err());
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }

    #[test]
    fn what_up_writes_is_read_back() {
        let config = ServerConfig {
            load_balancer_pools: vec!["172.30.0.128/25".parse().unwrap()],
            bootstrap_tokens: vec![BootstrapTokenConfig {
                id: "abcdef".into(),
                secret_hash: "0123".into(),
                description: "d".into(),
            }],
            ..ServerConfig::default()
        };
        assert_eq!(load(&serde_saphyr::to_string(&config).unwrap(), Args::default()).unwrap(), config);
    }
}
