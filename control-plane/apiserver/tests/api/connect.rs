//! Streams to a node's agent: the server passes on what client and agent say to each other.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use xebec_apiserver::Extensions;
use xebec_apiserver::authn::x509::X509;
use xebec_apiserver::extension::{NodeConnector, NodeStream};
use xebec_clock::Clock;

use crate::harness::{Api, PODS, pod};
use crate::wire::{Wire, echo, echoes};

/// An agent that tells what it was asked, and after an upgrade sends back what it gets.
struct Agent;

#[async_trait]
impl NodeConnector for Agent {
    async fn connect(&self, node: &str, address: &str, port: u16) -> io::Result<Box<dyn NodeStream>> {
        assert_eq!((node, address, port), ("n1", "10.0.0.1", 10250));
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let serving = hyper::server::conn::http1::Builder::new();
        tokio::spawn(
            serving
                .serve_connection(
                    TokioIo::new(theirs),
                    service_fn(|request| async { Ok::<_, Infallible>(echo(request)) }),
                )
                .with_upgrades(),
        );
        Ok(Box::new(ours))
    }
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
    let wire = Wire::listen(&api).await;
    let path = format!("{PODS}/p/exec?command=sh&stdin=true&stdout=true");
    let mut stream = wire.upgrade("POST", &path, "POST /exec/default/p/c?input=1&output=1&command=sh").await;
    echoes(&mut stream).await;
    drop(stream);
    // And to what the agent serves besides.
    let mut stream = wire.upgrade("GET", "/api/v1/nodes/n1/proxy/x?y=z", "GET /x?y=z").await;
    echoes(&mut stream).await;
    drop(stream);
    wire.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_go_to_pods_and_services() {
    let api = with_agent().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request| async { Ok::<_, Infallible>(echo(request)) });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    api.patch(&format!("{PODS}/p/status"), "merge-patch", &status).await.expect(200);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "targetPort": port}]}});
    api.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    // Slices have no loopback addresses; this machine's own do as well. (Nothing is sent to find it.)
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    probe.connect("192.0.2.1:9").unwrap();
    let own = probe.local_addr().unwrap().ip();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": false}}, {"addresses": [own]}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.post(slices, &slice).await.expect(201);
    let wire = Wire::listen(&api).await;
    let mut stream = wire.upgrade("GET", &format!("{PODS}/p:{port}/proxy/ws?a=b"), "GET /ws?a=b").await;
    echoes(&mut stream).await;
    drop(stream);
    let path = "/api/v1/namespaces/default/services/s/proxy/ws?a=b";
    let mut stream = wire.upgrade("GET", path, "GET /ws?a=b").await;
    echoes(&mut stream).await;
    drop(stream);
    wire.end().await;
}
