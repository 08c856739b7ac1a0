//! Names outside: to the node's resolvers, or to those that the ConfigMap `kube-system/kube-dns` names, in the form that
//! clusters know it (`stubDomains`, `upstreamNameservers`). Each resolver caches, negative answers too (RFC 2308), but no
//! failures, and asks the next server when one does not answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use xebec_clock::Random;

use super::answer::Answer;
use crate::api::watch::{Change, follow};
use crate::api::{ConfigMap, Rest};

/// Names from outside that a resolver remembers, for as long as their TTL says.
const CACHED_NAMES: u64 = 2_048;
/// How long a server has for an answer before the next is asked: the client's own patience is 5 s.
const TIMEOUT: Duration = Duration::from_millis(1_500);
const DNS_PORT: u16 = 53;
const CONFIG_MAP: &str = "kube-dns";

/// Who is asked for names outside. Clones share it.
#[derive(Clone)]
pub struct Forwarder {
    /// By the node's own settings.
    node: Option<TokioResolver>,
    configured: Arc<RwLock<Configured>>,
}

#[derive(Clone, Default)]
struct Configured {
    upstream: Option<TokioResolver>,
    /// The longest first.
    stubs: Vec<(Name, TokioResolver)>,
}

/// Options that every resolver has.
pub fn options(mut options: ResolverOpts) -> ResolverOpts {
    options.cache_size = CACHED_NAMES;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.timeout = TIMEOUT;
    options
}

/// A resolver that asks these.
pub fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    };
    let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options(ResolverOpts::default())).build().map_err(|e| e.to_string())
}

impl Forwarder {
    /// To the node's resolver, if it has one.
    pub fn new(node: Option<TokioResolver>) -> Self {
        Self { node, configured: Arc::default() }
    }

    /// Whether there is anybody to ask, by the node's settings.
    pub fn recursion(&self) -> bool {
        self.node.is_some()
    }

    fn resolver_for(&self, name: &Name) -> Option<TokioResolver> {
        let configured = self.configured.read();
        let stub = configured.stubs.iter().find(|(domain, _)| domain.zone_of(name)).map(|(_, resolver)| resolver);
        stub.or(configured.upstream.as_ref()).or(self.node.as_ref()).cloned()
    }

    /// Asks for a name.
    pub async fn ask(&self, name: Name, kind: RecordType) -> Answer {
        let Some(resolver) = self.resolver_for(&name) else { return Answer::of(ResponseCode::Refused, false) };
        match resolver.lookup(name, kind).await {
            Ok(found) => Answer { answers: found.answers().to_vec(), ..Answer::of(ResponseCode::NoError, false) },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| soa.into_record_of_rdata());
                Answer { authority: soa.into_iter().collect(), ..Answer::of(none.response_code, false) }
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Answer::of(code, false),
            Err(error) => {
                tracing::debug!(%error, "no resolver answered");
                Answer::of(ResponseCode::ServFail, false)
            }
        }
    }

    /// Takes the ConfigMap's settings; what cannot be understood is left out, and said.
    pub fn configure(&self, data: &BTreeMap<String, String>) {
        let (settings, problems) = parse(data);
        problems.iter().for_each(|problem| tracing::warn!("ConfigMap kube-system/{CONFIG_MAP}: {problem}"));
        let build = |servers: &[SocketAddr]| {
            resolver(servers).inspect_err(|error| tracing::warn!(%error, "cannot use a DNS server")).ok()
        };
        let stubs = settings.stubs.iter().filter_map(|(domain, servers)| Some((domain.clone(), build(servers)?)));
        let upstream = if settings.upstream.is_empty() { None } else { build(&settings.upstream) };
        *self.configured.write() = Configured { upstream, stubs: stubs.collect() };
    }

    /// Follows the ConfigMap for ever.
    pub async fn follow(&self, rest: Rest, random: Random) {
        let (sender, mut changes) = mpsc::channel(4);
        let path = "/api/v1/namespaces/kube-system/configmaps".to_owned();
        let query = format!("fieldSelector=metadata.name%3D{CONFIG_MAP}");
        let apply = async {
            while let Some(change) = changes.recv().await {
                let none = BTreeMap::new();
                match &change {
                    Change::All(all) => self.configure(all.first().map_or(&none, |map: &Arc<ConfigMap>| &map.data)),
                    Change::Put(map) => self.configure(&map.data),
                    Change::Gone(_) => self.configure(&none),
                }
            }
        };
        tokio::join!(follow::<ConfigMap>(rest, path, query, random, sender), apply);
    }
}

#[derive(Debug, Default, PartialEq)]
struct Settings {
    upstream: Vec<SocketAddr>,
    stubs: Vec<(Name, Vec<SocketAddr>)>,
}

fn parse(data: &BTreeMap<String, String>) -> (Settings, Vec<String>) {
    let (mut settings, mut problems) = (Settings::default(), Vec::new());
    if let Some(text) = data.get("upstreamNameservers") {
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(servers) => settings.upstream = addresses("upstreamNameservers", &servers, &mut problems),
            Err(error) => problems.push(format!("upstreamNameservers is no JSON list of addresses: {error}")),
        }
    }
    if let Some(text) = data.get("stubDomains") {
        match serde_json::from_str::<BTreeMap<String, Vec<String>>>(text) {
            Ok(domains) => {
                for (domain, servers) in domains {
                    let field = format!("stubDomains[{domain}]");
                    match Name::from_utf8(&domain) {
                        Ok(mut name) => {
                            name.set_fqdn(true);
                            let servers = addresses(&field, &servers, &mut problems);
                            if !servers.is_empty() {
                                settings.stubs.push((name.to_lowercase(), servers));
                            }
                        }
                        Err(error) => problems.push(format!("{field}: {error}")),
                    }
                }
            }
            Err(error) => problems.push(format!("stubDomains is no JSON object of lists of addresses: {error}")),
        }
    }
    settings.stubs.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
    (settings, problems)
}

/// Each an address, or an address with a port.
fn addresses(field: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for text in texts {
        match text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT))) {
            Ok(address) => out.push(address),
            Err(_) => problems.push(format!("{field}: {text:?} is no address")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_as_clusters_know_them() {
        let data = [
            ("upstreamNameservers".to_owned(), r#"["192.0.2.1", "[2001:db8::1]:5353", "nonsense"]"#.to_owned()),
            (
                "stubDomains".to_owned(),
                r#"{"acme.example": ["192.0.2.2:53"], "a.acme.example": ["192.0.2.3"]}"#.to_owned(),
            ),
        ];
        let (settings, problems) = parse(&data.into());
        assert_eq!(settings.upstream.len(), 2);
        assert_eq!(problems, ["upstreamNameservers: \"nonsense\" is no address"]);
        let domains: Vec<String> = settings.stubs.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(domains, ["a.acme.example.", "acme.example."], "the longest first");
        let (settings, problems) = parse(&[("stubDomains".to_owned(), "[]".to_owned())].into());
        assert_eq!((settings, problems.len()), (Settings::default(), 1));
    }
}
