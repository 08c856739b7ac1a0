//! The DNS server: UDP and TCP, our own names from the zone, others from the node's resolver.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{LowerName, Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::{Time, TokioRuntimeProvider};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;

use super::Names;
use super::zone::Found;

/// A TCP client that asks nothing for so long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for a slow TCP client, at most.
const TCP_ANSWERS: usize = 32;
/// Names from outside that are remembered, for as long as their TTL says.
const CACHED_NAMES: u64 = 2048;
/// The largest UDP answer that we send (DNS Flag Day 2020: it fits one packet on any link).
const UDP_PAYLOAD_BYTES: u16 = 1232;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another server has the port.
    #[error("DNS cannot listen on {address}: {source}; stop what listens there, or give the agent another DNS port")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The resolver's settings are of no use.
    #[error("{path}: {message}; names outside the cluster need a `nameserver` line there")]
    Upstream {
        /// The settings' file.
        path: String,
        /// Why.
        message: String,
    },
}

/// A server that has its sockets.
pub struct DnsServer(Server<Handler>);

struct Handler {
    names: Names,
    /// None: there is no resolver, and names outside are refused.
    upstream: Option<TokioResolver>,
    random: Random,
}

/// What is sent back.
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additionals: Vec<Record>,
}

/// The resolver that a `resolv.conf` describes; `None` if it names no server.
pub fn upstream(resolv_conf: &Path) -> Result<Option<TokioResolver>, ServerError> {
    let failed = |message: String| ServerError::Upstream { path: resolv_conf.display().to_string(), message };
    let text = std::fs::read_to_string(resolv_conf).map_err(|e| failed(e.to_string()))?;
    if !text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")) {
        return Ok(None);
    }
    let (config, mut options) = parse_resolv_conf(text).map_err(|e| failed(e.to_string()))?;
    // The clients' own search lists apply: names come here complete.
    let config = ResolverConfig::from_name_servers(config.name_servers().to_vec());
    options.cache_size = CACHED_NAMES;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().map(Some).map_err(|e| failed(e.to_string()))
}

impl DnsServer {
    /// Binds UDP and TCP at `address`.
    pub async fn bind(
        address: SocketAddr,
        names: Names,
        upstream: Option<TokioResolver>,
        random: Random,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        // With port 0 TCP takes the port that UDP was given.
        let tcp = TcpListener::bind(udp.local_addr().map_err(failed)?).await.map_err(failed)?;
        let mut server = Server::new(Handler { names, upstream, random });
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(Self(server))
    }

    /// Serves until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let stop = self.0.shutdown_token().clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => stop.cancel(),
            result = self.0.block_until_done() => {
                if let Err(error) = result {
                    tracing::error!(%error, "the DNS server stopped");
                }
            }
        }
    }
}

impl Handler {
    async fn answer(&self, name: &LowerName, kind: RecordType) -> Answer {
        match self.names.lookup(name, kind, self.random.next_u64()) {
            Found::Records { answers, additionals } => {
                Answer { code: ResponseCode::NoError, authoritative: true, answers, authority: Vec::new(), additionals }
            }
            Found::NoData => self.negative(ResponseCode::NoError),
            Found::NotFound => self.negative(ResponseCode::NXDomain),
            Found::Elsewhere => self.forward(name.into(), kind).await,
            Found::Alias(record, _) if kind == RecordType::CNAME => {
                Answer { answers: vec![*record], ..Answer::of(ResponseCode::NoError, true) }
            }
            Found::Alias(record, target) => {
                let mut answer = self.resolve_alias(&target, kind).await;
                answer.answers.insert(0, *record);
                answer
            }
        }
    }

    /// An alias may point back into the cluster: one step is followed here, the client follows further ones.
    async fn resolve_alias(&self, target: &Name, kind: RecordType) -> Answer {
        match self.names.lookup(&LowerName::from(target.clone()), kind, self.random.next_u64()) {
            Found::Elsewhere => self.forward(target.clone(), kind).await,
            Found::Records { answers, .. } => Answer { answers, ..Answer::of(ResponseCode::NoError, true) },
            Found::Alias(record, _) => Answer { answers: vec![*record], ..Answer::of(ResponseCode::NoError, true) },
            Found::NoData | Found::NotFound => Answer::of(ResponseCode::NoError, true),
        }
    }

    fn negative(&self, code: ResponseCode) -> Answer {
        Answer { authority: vec![self.names.soa()], ..Answer::of(code, true) }
    }

    async fn forward(&self, name: Name, kind: RecordType) -> Answer {
        let Some(upstream) = &self.upstream else { return Answer::of(ResponseCode::Refused, false) };
        match upstream.lookup(name, kind).await {
            Ok(found) => Answer { answers: found.answers().to_vec(), ..Answer::of(ResponseCode::NoError, false) },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| soa.into_record_of_rdata());
                Answer { authority: soa.into_iter().collect(), ..Answer::of(none.response_code, false) }
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Answer::of(code, false),
            Err(error) => {
                tracing::debug!(%error, "the node's resolver did not answer");
                Answer::of(ResponseCode::ServFail, false)
            }
        }
    }
}

impl Answer {
    fn of(code: ResponseCode, authoritative: bool) -> Self {
        Self { code, authoritative, answers: Vec::new(), authority: Vec::new(), additionals: Vec::new() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut respond: R) -> ResponseInfo {
        let answer = match request.request_info() {
            Ok(info) if info.metadata.op_code == OpCode::Query => {
                self.answer(info.query.name(), info.query.query_type()).await
            }
            Ok(_) => Answer::of(ResponseCode::NotImp, false),
            Err(_) => Answer::of(ResponseCode::FormErr, false),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = answer.authoritative;
        metadata.response_code = answer.code;
        metadata.recursion_available = self.upstream.is_some();
        let edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD_BYTES).set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response =
            builder.build(metadata, &answer.answers, &answer.authority, std::iter::empty(), &answer.additionals);
        match respond.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS client went away");
                let counts = hickory_proto::op::HeaderCounts::default();
                hickory_proto::op::Header { metadata, counts }.into()
            }
        }
    }
}

#[cfg(test)]
mod tests;
