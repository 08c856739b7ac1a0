//! The DNS server: UDP by threads that answer what they can at once and hand over the rest, TCP by hickory.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Metadata, OpCode, ResponseCode};
use hickory_proto::rr::Name;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::{Time, TokioRuntimeProvider};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Answerer, edns};
use super::fast::Fast;
use super::{forward, udp};

/// A TCP client that asks nothing for so long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for a slow TCP client, at most.
const TCP_ANSWERS: usize = 32;
/// Threads for UDP, at most; there is one for each core.
const THREADS_MAX: usize = 4;
/// UDP questions that wait for other servers, at most: more are dropped, and asked again by who asked.
const PENDING_MAX: usize = 1_024;

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
pub struct DnsServer {
    /// Where.
    pub address: SocketAddr,
    tcp: Server<Handler>,
    answerer: Answerer,
    threads: Threads,
    slow: mpsc::Receiver<Slow>,
}

/// A question for the long way.
struct Slow {
    packet: Vec<u8>,
    from: SocketAddr,
    /// To answer by.
    socket: Arc<UdpSocket>,
}

struct Handler(Answerer);

/// What a `resolv.conf` says: the resolver, if it names a server, and the names that are searched.
pub fn upstream(resolv_conf: &Path) -> Result<(Option<TokioResolver>, Vec<Name>), ServerError> {
    let failed = |message: String| ServerError::Upstream { path: resolv_conf.display().to_string(), message };
    let text = std::fs::read_to_string(resolv_conf).map_err(|e| failed(e.to_string()))?;
    if !text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")) {
        return Ok((None, Vec::new()));
    }
    let (config, options) = parse_resolv_conf(text).map_err(|e| failed(e.to_string()))?;
    let search = config.search().iter().filter(|name| !name.is_root()).cloned().collect();
    // The clients' own search lists apply: names come here complete.
    let config = ResolverConfig::from_name_servers(config.name_servers().to_vec());
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = builder.with_options(forward::options(options)).build().map_err(|e| failed(e.to_string()))?;
    Ok((Some(resolver), search))
}

impl DnsServer {
    /// Binds UDP and TCP at `address`.
    pub async fn bind(address: SocketAddr, answerer: Answerer) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address, source };
        // First: TCP does not share its port.
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sender, slow) = mpsc::channel(PENDING_MAX);
        let threads = Threads::start(address, &answerer, &sender).map_err(failed)?;
        let mut tcp = Server::new(Handler(answerer.clone()));
        tcp.register_listener(listener, TCP_IDLE, TCP_ANSWERS);
        Ok(Self { address, tcp, answerer, threads, slow })
    }

    /// Serves until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let stop = self.tcp.shutdown_token().clone();
        let (mut slow, answerer) = (self.slow, self.answerer);
        let room = Arc::new(Semaphore::new(PENDING_MAX));
        let datagrams = async {
            while let Some(question) = slow.recv().await {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                let answerer = answerer.clone();
                tokio::spawn(async move {
                    if let Some(answer) = answerer.datagram(&question.packet, question.from).await
                        && let Err(error) = question.socket.send_to(&answer, question.from)
                    {
                        tracing::debug!(%error, "a DNS client went away");
                    }
                    drop(permit);
                });
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => stop.cancel(),
            () = datagrams => {}
            result = self.tcp.block_until_done() => {
                if let Err(error) = result {
                    tracing::error!(%error, "the DNS server stopped");
                }
            }
        }
        self.threads.stop();
    }
}

/// The threads that answer by UDP. They end when this is dropped.
struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(address: SocketAddr, answerer: &Answerer, slow: &mpsc::Sender<Slow>) -> std::io::Result<Self> {
        let mut all = Self { stop: Arc::default(), threads: Vec::new() };
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for _ in 0..count {
            let socket = Arc::new(udp::bind(address)?);
            let (names, clients) = (answerer.names.clone(), answerer.clients.clone());
            let mut fast = Fast::new(names, clients, answerer.ear.clone(), answerer.forwarder.recursion());
            let (stop, slow) = (Arc::clone(&all.stop), slow.clone());
            let work = move || {
                udp::serve(&socket, &stop, |packet, from, out| {
                    let answered = fast.answer(packet, from, out);
                    if !answered {
                        let question = Slow { packet: packet.to_vec(), from, socket: Arc::clone(&socket) };
                        // Too many wait already: this one is asked again by who asked.
                        drop(slow.try_send(question));
                    }
                    answered
                });
            };
            all.threads.push(std::thread::Builder::new().name("dns".to_owned()).spawn(work)?);
        }
        Ok(all)
    }

    /// Tells them to end; they do so within a second, or with the process.
    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.clear();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut respond: R) -> ResponseInfo {
        let answer = match request.request_info() {
            Ok(info) if info.metadata.op_code == OpCode::Query => {
                self.0
                    .answer(request.src().ip().to_canonical(), info.query.original().name(), info.query.query_type())
                    .await
            }
            Ok(_) => Answer::of(ResponseCode::NotImp, false),
            Err(_) => Answer::of(ResponseCode::FormErr, false),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = answer.authoritative;
        metadata.response_code = answer.code;
        metadata.recursion_available = self.0.forwarder.recursion();
        let own = request.edns.as_ref().map(|_| edns());
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(own) = &own {
            builder.edns(own);
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
