//! A server on a real connection, which can be upgraded.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, ServerTls, client_config, server_config};

use crate::harness::Api;

/// A server that listens; its clients are the administrator.
pub struct Wire {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Wire {
    pub async fn listen(api: &Api) -> Self {
        let (clock, random) = (Clock::system(), Random::system());
        let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
        let hour = jiff::SignedDuration::from_hours(1);
        let certified = ca.server_cert("kube-apiserver", &["127.0.0.1"], hour).unwrap();
        let tls = ServerTls { certified: &certified, client_ca_pem: ca.certificate_pem() };
        let tls = server_config(&tls, &clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, stop) = (api.server.clone(), CancellationToken::new());
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { server.serve(listener, tls, stop).await }
        });
        let admin = ca.client_cert("admin", &["system:masters"], hour).unwrap();
        let mut config = client_config(ca.certificate_pem(), Some(&admin), &clock).unwrap().as_ref().clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { address, tls: Arc::new(config), stop, serving }
    }

    /// Asks for an upgrade to SPDY, and reads until `expected` has come after the head.
    pub async fn upgrade(&self, method: &str, path: &str, expected: &str) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(self.tls.clone()).connect(name, socket).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with(expected) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        assert!(seen.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{seen}");
        assert!(seen.to_ascii_lowercase().contains("\r\nupgrade: spdy/3.1\r\n"), "{seen}");
        stream
    }

    /// Ends the server, which lets go of its connections.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(15), self.serving).await.unwrap().unwrap().unwrap();
    }
}

/// What is sent comes back.
pub async fn echoes(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"\x80\x03frames").await.unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x80\x03frames");
}

/// The other end: says what it was asked, after an upgrade, and then sends back what it gets.
pub fn echo(mut request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).map_or("", |value| value.to_str().unwrap_or_default()).to_owned()
    };
    assert_eq!(header(request.headers(), "authorization"), "", "credentials stay with the server");
    let asked = format!("{} {}", request.method(), request.uri());
    if header(request.headers(), "upgrade") != "SPDY/3.1" {
        return Response::new(Full::from(asked));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(asked.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        // Ends as the other end likes.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    response.header("connection", "Upgrade").header("upgrade", "SPDY/3.1").body(Full::default()).unwrap()
}
