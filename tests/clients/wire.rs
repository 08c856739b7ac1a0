//! What a client may do to a connection: nonsense, too much, too slowly, half of it. The server says so in HTTP where
//! it can, and goes on serving others.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xebec_clock::Clock;
use xebec_pki::Certified;

use crate::Server;

/// How long an answer may take.
const SOON: Duration = Duration::from_secs(20);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The way to the server, with an administrator's certificate.
struct Door {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Door {
    fn of(kubeconfig: &Path) -> Self {
        let file = std::fs::read_to_string(kubeconfig).expect("a kubeconfig");
        let file: serde_json::Value = serde_saphyr::from_str(&file).expect("YAML");
        let (cluster, user) = (&file["clusters"][0]["cluster"], &file["users"][0]["user"]);
        let text = |value: &serde_json::Value| {
            String::from_utf8(BASE64_STANDARD.decode(value.as_str().expect("base64")).expect("base64")).expect("PEM")
        };
        let server = cluster["server"].as_str().expect("an address");
        let address = server.trim_start_matches("https://").parse().expect("an address");
        let certified = Certified {
            certificate_pem: text(&user["client-certificate-data"]),
            key_pem: text(&user["client-key-data"]),
        };
        let ca = text(&cluster["certificate-authority-data"]);
        let tls = xebec_pki::client_config(&ca, Some(&certified), &Clock::system()).expect("TLS");
        let mut tls = (*tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { address, tls: Arc::new(tls) }
    }

    async fn open(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.expect("connect");
        let name = rustls::pki_types::ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(self.tls.clone()).connect(name, socket).await.expect("TLS")
    }

    /// Sends bytes, closes its side if asked to, and reads what comes until the server is done.
    async fn exchange(&self, pieces: &[&[u8]], half_close: bool) -> String {
        let mut stream = self.open().await;
        for piece in pieces {
            // The server may have had enough already.
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
        let _ = stream.flush().await;
        if half_close {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let read = async {
            let mut buffer = [0; 4096];
            while let Ok(count) = stream.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..count]);
                // One answer is enough.
                if count == 0 || answer.windows(4).any(|window| window == b"\r\n\r\n") {
                    break;
                }
            }
        };
        tokio::time::timeout(SOON, read).await.expect("an answer, or the end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn still_serves(&self) {
        let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = self.exchange(&[request.as_bytes()], false).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn post(length: usize) -> String {
    format!("POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
}

#[track_caller]
fn code(answer: &str, expected: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "expected {expected}: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_manners() {
    let server = tokio::task::spawn_blocking(Server::start).await.expect("a server");
    let door = Door::of(&server.kubeconfig());

    // Not TLS, and TLS that goes nowhere.
    let mut plain = TcpStream::connect(door.address).await.expect("connect");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("write");
    let mut answer = Vec::new();
    let end = tokio::time::timeout(SOON, plain.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "the server hangs up");
    let idle: Vec<_> = futures::future::join_all((0..200).map(|_| TcpStream::connect(door.address))).await;
    door.still_serves().await;

    // Not HTTP.
    code(&door.exchange(&[b"\x00\x01nonsense\r\n\r\n"], false).await, "400");
    code(&door.exchange(&[b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"], false).await, "400");

    // Too much of it: a head, a body that says so, one that does not.
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(2 << 20));
    let answer = door.exchange(&[head.as_bytes()], false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let body = vec![b' '; 5 << 20];
    code(&door.exchange(&[post(body.len()).as_bytes(), &body], false).await, "413");
    let chunked = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let size = format!("{:x}\r\n", body.len());
    let pieces: [&[u8]; 4] = [chunked.as_bytes(), size.as_bytes(), &body, b"\r\n0\r\n\r\n"];
    code(&door.exchange(&pieces, false).await, "413");
    let deep = "[".repeat(1 << 20);
    code(&door.exchange(&[post(deep.len()).as_bytes(), deep.as_bytes()], false).await, "400");

    // Chunks that are none.
    let answer = door.exchange(&[chunked.as_bytes(), b"zz\r\n"], false).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");

    // Half of it.
    let answer = door.exchange(&[post(100).as_bytes(), b"{\"metadata\":"], true).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let stalled: Vec<_> = futures::future::join_all((0..50).map(|_| async {
        let mut stream = door.open().await;
        stream.write_all(post(100).as_bytes()).await.expect("write");
        stream.flush().await.expect("flush");
        stream
    }))
    .await;
    door.still_serves().await;
    drop((idle, stalled));
    door.still_serves().await;
}
