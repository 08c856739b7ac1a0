//! Streams to a node's agent: the server passes on what client and agent say to each other.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use xebec_apiserver::Extensions;
use xebec_apiserver::authn::x509::X509;
use xebec_apiserver::extension::{NodeConnector, NodeStream};
use xebec_clock::{Clock, Random};
use xebec_pki::{ClusterCa, ServerTls, client_config, server_config};

use crate::harness::{Api, PODS, pod};

/// An agent that tells what it was asked, and after an upgrade sends back what it gets.
struct Agent;

#[async_trait]
impl NodeConnector for Agent {
    async fn connect(&self, node: &str, address: &str, port: u16) -> io::Result<Box<dyn NodeStream>> {
        assert_eq!((node, address, port), ("n1", "10.0.0.1", 10250));
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let serving = hyper::server::conn::http1::Builder::new();
        tokio::spawn(serving.serve_connection(TokioIo::new(theirs), service_fn(answer)).with_upgrades());
        Ok(Box::new(ours))
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = format!("{} {}", request.method(), request.uri());
    let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    assert_eq!(header("authorization"), "", "credentials stay with the server");
    if header("upgrade") != "SPDY/3.1" {
        return Ok(Response::new(Full::from(asked)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(asked.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    Ok(response.body(Full::default()).unwrap())
}

async fn with_agent() -> Api {
    let clock = Clock::system();
    let authenticators = vec![Arc::new(X509::new(&clock)) as _];
    let api = Api::with(Extensions { authenticators, nodes: Some(Arc::new(Agent)), ..Extensions::default() }).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    api.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "Hostname", "address": "n1"},
        {"type": "InternalIP", "address": "10.0.0.1"}]}});
    api.patch("/api/v1/nodes/n1/status", "merge-patch", &status).await.expect(200);
    let mut object = pod("p");
    object["spec"]["nodeName"] = "n1".into();
    api.post(PODS, &object).await.expect(201);
    api
}

#[tokio::test]
async fn logs_come_through() {
    let api = with_agent().await;
    let log = api.send("GET", &format!("{PODS}/p/log?follow=true&tailLines=3"), &[("authorization", "x")], "").await;
    assert_eq!(log.code, 200);
    assert_eq!(log.bytes, "GET /containerLogs/default/p/c?follow=true&tailLines=3");
    let exec = api.send("POST", &format!("{PODS}/p/exec?command=ls"), &[("upgrade", "SPDY/3.1")], "").await;
    assert_eq!(exec.message(), "this connection cannot be upgraded; use HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_go_to_the_agent() {
    let api = with_agent().await;
    let (clock, random) = (Clock::system(), Random::system());
    let ca = ClusterCa::ephemeral(&clock, &random).unwrap();
    let hour = jiff::SignedDuration::from_hours(1);
    let certified = ca.server_cert("kube-apiserver", &["127.0.0.1"], hour).unwrap();
    let tls = server_config(&ServerTls { certified: &certified, client_ca_pem: ca.certificate_pem() }, &clock).unwrap();
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
    let socket = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let request = format!(
        "POST {PODS}/p/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let expected = "POST /exec/default/p/c?input=1&output=1&command=sh";
    while !seen.ends_with(expected) {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(seen.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{seen}");
    stream.write_all(b"\x80\x03frames").await.unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"\x80\x03frames");
    drop(stream);
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(15), serving).await.unwrap().unwrap().unwrap();
}
