use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts};
use hickory_resolver::net::{DnsError, NetError};
use xebec_clock::Random;

use super::super::Names;
use super::super::autopath::Clients;
use super::super::forward::Forwarder;
use super::super::zone::{Endpoint, Port, Service, Slice, Zone};
use super::*;
use crate::policy::Ear;

struct Running {
    address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(services: Vec<Service>, origin: &str, upstream: Option<TokioResolver>) -> Running {
    let mut zone = Zone::new(origin, vec!["10.96.0.0/16".parse().unwrap()]).unwrap();
    services.into_iter().for_each(|s| zone.set_service(s));
    start_with(answerer(zone, upstream)).await
}

fn answerer(zone: Zone, upstream: Option<TokioResolver>) -> Answerer {
    Answerer {
        clients: Clients::new(zone.origin(), vec![Name::from_utf8("lan.").unwrap()]),
        names: Names::new(zone),
        forwarder: Forwarder::new(upstream),
        random: Random::seeded(1),
        ear: Ear::deaf(),
    }
}

async fn start_with(answerer: Answerer) -> Running {
    let server = DnsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), answerer).await.unwrap();
    let address = server.address;
    let cancel = CancellationToken::new();
    tokio::spawn(server.run(cancel.clone()));
    Running { address, _stop: cancel.drop_guard() }
}

fn resolver(server: SocketAddr, connection: fn() -> ConnectionConfig) -> TokioResolver {
    let mut connection = connection();
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.build().unwrap()
}

fn web(address: [u8; 4]) -> Service {
    Service {
        namespace: "shop".into(),
        name: "web".into(),
        addresses: vec![IpAddr::from(address)],
        ..Service::default()
    }
}

#[tokio::test]
async fn udp_and_tcp_answer() {
    let server = start(vec![web([10, 96, 0, 7])], "cluster.local", None).await;
    for connection in [ConnectionConfig::udp as fn() -> _, ConnectionConfig::tcp] {
        let client = resolver(server.address, connection);
        let found = client.lookup("web.shop.svc.cluster.local.", RecordType::A).await.unwrap();
        assert_eq!(found.answers()[0].data.to_string(), "10.96.0.7");
        let missing = client.lookup("none.shop.svc.cluster.local.", RecordType::A).await.unwrap_err();
        let NetError::Dns(DnsError::NoRecordsFound(none)) = missing else { panic!("{missing:?}") };
        assert_eq!(none.response_code, ResponseCode::NXDomain);
        assert!(none.soa.is_some(), "negative answers carry the SOA");
    }
}

#[tokio::test]
async fn names_outside_come_from_the_resolver() {
    let outside = start(vec![web([10, 96, 0, 9])], "example.com", None).await;
    let mut away = Service { namespace: "shop".into(), name: "away".into(), ..Service::default() };
    away.external_name = Some("web.shop.svc.example.com".into());
    let server = start(vec![away], "cluster.local", Some(resolver(outside.address, ConnectionConfig::udp))).await;
    let client = resolver(server.address, ConnectionConfig::udp);
    let found = client.lookup("web.shop.svc.example.com.", RecordType::A).await.unwrap();
    assert_eq!(found.answers()[0].data.to_string(), "10.96.0.9");
    let alias = client.lookup("away.shop.svc.cluster.local.", RecordType::A).await.unwrap();
    let last = alias.answers().last().map(|r| r.data.to_string());
    assert_eq!(last.as_deref(), Some("10.96.0.9"), "the alias is resolved for the client: {alias:?}");
    let missing = client.lookup("nothing.svc.example.com.", RecordType::A).await.unwrap_err();
    let NetError::Dns(DnsError::NoRecordsFound(none)) = missing else { panic!("{missing:?}") };
    assert_eq!(none.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn without_a_resolver_names_outside_are_refused() {
    let server = start(Vec::new(), "cluster.local", None).await;
    let client = resolver(server.address, ConnectionConfig::udp);
    assert!(client.lookup("example.com.", RecordType::A).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let server = start(Vec::new(), "cluster.local", None).await;
    let other = answerer(Zone::new("cluster.local", Vec::new()).unwrap(), None);
    let error = DnsServer::bind(server.address, other).await.err().unwrap();
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
}

#[test]
fn resolver_settings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    assert!(upstream(&path).is_err(), "no file");
    std::fs::write(&path, "search example.com\n").unwrap();
    assert!(upstream(&path).unwrap().0.is_none());
    std::fs::write(&path, "search lan\nnameserver 127.0.0.1\n").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (resolver, search) = upstream(&path).unwrap();
        assert!(resolver.is_some());
        assert_eq!(search, [Name::from_utf8("lan").unwrap()]);
    });
}

/// One question by UDP, and what comes back.
async fn ask(server: SocketAddr, name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // As it is written: the other way of reading a name takes its capitals away.
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = edns();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    exchange(server, &message.to_vec().unwrap()).await
}

async fn exchange(server: SocketAddr, question: &[u8]) -> Message {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut answer = vec![0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await;
    let length = received.expect("an answer").unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

/// A headless service with this many endpoints.
fn peers(count: u8) -> (Service, Slice) {
    let service = Service { namespace: "shop".into(), name: "peers".into(), ..Service::default() };
    let endpoint = |i| Endpoint { addresses: vec![IpAddr::from([10, 244, 0, i])], hostname: None, ready: true };
    let slice = Slice {
        namespace: "shop".into(),
        name: "peers-1".into(),
        service: "peers".into(),
        endpoints: (1..=count).map(endpoint).collect(),
        ports: vec![Port { name: "http".into(), protocol: "tcp".into(), number: 80 }],
    };
    (service, slice)
}

#[tokio::test]
async fn what_is_too_large_comes_by_tcp() {
    let mut zone = Zone::new("cluster.local", Vec::new()).unwrap();
    let (service, slice) = peers(200);
    zone.set_service(service);
    zone.set_slice(slice);
    let server = start_with(answerer(zone, None)).await;
    let name = "peers.shop.svc.cluster.local.";
    let cut = ask(server.address, name, RecordType::A, None).await;
    assert!(cut.metadata.truncation && !cut.answers.is_empty() && cut.answers.len() < 40, "{}", cut.answers.len());
    let more = ask(server.address, name, RecordType::A, Some(4096)).await;
    assert!(more.metadata.truncation && more.answers.len() > cut.answers.len() && more.edns.is_some());
    let whole = resolver(server.address, ConnectionConfig::tcp).lookup(name, RecordType::A).await.unwrap();
    assert_eq!(whole.answers().len(), 200);
    // Clients that take the first spread out.
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..20 {
        first.insert(ask(server.address, name, RecordType::A, None).await.answers[0].data.to_string());
    }
    assert!(first.len() > 5, "{first:?}");
}

#[tokio::test]
async fn answers_follow_the_zone() {
    let zone = Zone::new("cluster.local", Vec::new()).unwrap();
    let all = answerer(zone, None);
    let server = start_with(all.clone()).await;
    let name = "web.shop.svc.cluster.local.";
    for round in 1..20 {
        assert_eq!(ask(server.address, name, RecordType::A, None).await.metadata.response_code, ResponseCode::NXDomain);
        all.names.change(|zone| zone.set_service(web([10, 96, 0, round])));
        let found = ask(server.address, name, RecordType::A, None).await;
        assert_eq!(found.answers[0].data.to_string(), format!("10.96.0.{round}"), "at once");
        assert!(found.metadata.authoritative);
        let none = ask(server.address, name, RecordType::AAAA, None).await;
        assert_eq!(
            (none.metadata.response_code, none.answers.len(), none.authorities.len()),
            (ResponseCode::NoError, 0, 1)
        );
        all.names.change(|zone| zone.remove_service("shop", "web"));
    }
}

#[tokio::test]
async fn a_search_takes_one_question() {
    let outside = start(vec![web([10, 96, 0, 9])], "example.com", None).await;
    let mut zone = Zone::new("cluster.local", Vec::new()).unwrap();
    zone.set_service(web([10, 96, 0, 7]));
    let all = answerer(zone, Some(resolver(outside.address, ConnectionConfig::udp)));
    all.clients.know(|_| Some("blog".to_owned()));
    let server = start_with(all).await;
    let last = async |name: &str, kind| {
        let found = ask(server.address, name, kind, None).await;
        let last = found.answers.last().map(|record| record.data.to_string());
        (found.metadata.response_code, found.answers.len(), last.unwrap_or_default())
    };
    // `web.shop` and `web.shop.svc.example.com`, as a pod of the namespace blog looks for them.
    let found = last("web.shop.blog.svc.cluster.local.", RecordType::A).await;
    assert_eq!(found, (ResponseCode::NoError, 2, "10.96.0.7".to_owned()));
    let found = last("web.shop.svc.example.com.blog.svc.cluster.local.", RecordType::A).await;
    assert_eq!(found, (ResponseCode::NoError, 2, "10.96.0.9".to_owned()));
    let none = last("web.shop.svc.example.com.blog.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((none.0, none.1), (ResponseCode::NoError, 1), "it exists, without such an address");
    let missing = last("nothing.svc.example.com.blog.svc.cluster.local.", RecordType::A).await;
    assert_eq!((missing.0, missing.1), (ResponseCode::NXDomain, 0));
    let unknown = last("www.example.org.blog.svc.cluster.local.", RecordType::A).await;
    assert_eq!(unknown.0, ResponseCode::Refused, "whether it exists is not known");
    let other = last("web.shop.mail.svc.cluster.local.", RecordType::A).await;
    assert_eq!(other.0, ResponseCode::NXDomain, "no pod of that namespace asks");
}

/// A server whose answers are as told, and how often it was asked.
async fn scripted(answers: Vec<Option<ResponseCode>>) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let turn = count.fetch_add(1, Ordering::Relaxed);
            let Some(code) = answers[turn.min(answers.len() - 1)] else { continue };
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.metadata.response_code = code;
            answer.metadata.recursion_available = true;
            let query = question.queries[0].clone();
            if code == ResponseCode::NoError {
                let data = RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 7));
                answer.add_answer(Record::from_rdata(query.name().clone(), 300, data));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn answers_are_kept_and_failures_are_not() {
    let failure = Some(ResponseCode::ServFail);
    let (upstream, asked) = scripted(vec![failure; 8].into_iter().chain([Some(ResponseCode::NoError)]).collect()).await;
    let server = start(Vec::new(), "cluster.local", Some(forward::resolver(&[upstream]).unwrap())).await;
    let mut codes = Vec::new();
    // Each question is asked a few times upstream; once that recovers, so do we.
    while codes.last() != Some(&ResponseCode::NoError) {
        assert!(codes.len() < 20, "{codes:?}");
        codes.push(ask(server.address, "www.example.org.", RecordType::A, None).await.metadata.response_code);
    }
    assert_eq!(codes[0], ResponseCode::ServFail);
    let before = asked.load(Ordering::Relaxed);
    for _ in 0..5 {
        let found = ask(server.address, "www.example.org.", RecordType::A, None).await;
        assert_eq!(found.answers[0].data.to_string(), "192.0.2.7");
    }
    assert_eq!(asked.load(Ordering::Relaxed), before, "kept");
}

#[tokio::test]
async fn a_silent_server_is_passed_by_and_stubs_have_their_own() {
    let (silent, _) = scripted(vec![None]).await;
    let (good, _) = scripted(vec![Some(ResponseCode::NoError)]).await;
    let (stub, stub_asked) = scripted(vec![Some(ResponseCode::NoError)]).await;
    let all =
        answerer(Zone::new("cluster.local", Vec::new()).unwrap(), Some(forward::resolver(&[silent, good]).unwrap()));
    let server = start_with(all.clone()).await;
    let found = ask(server.address, "www.example.org.", RecordType::A, None).await;
    assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    all.forwarder.configure(&[("stubDomains".to_owned(), format!(r#"{{"acme.example": ["{stub}"]}}"#))].into());
    ask(server.address, "www.example.net.", RecordType::A, None).await;
    assert_eq!(stub_asked.load(Ordering::Relaxed), 0);
    ask(server.address, "www.acme.example.", RecordType::A, None).await;
    assert!(stub_asked.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn odd_questions_get_the_codes_for_them() {
    let server = start(vec![web([10, 96, 0, 7])], "cluster.local", None).await;
    let mut question = Message::new(5, MessageType::Query, OpCode::Status);
    question.add_query(Query::query(Name::from_utf8("web.shop.svc.cluster.local.").unwrap(), RecordType::A));
    let answer = exchange(server.address, &question.to_vec().unwrap()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    question.metadata.op_code = OpCode::Query;
    let mut newer = edns();
    newer.set_version(1);
    question.set_edns(newer);
    let answer = exchange(server.address, &question.to_vec().unwrap()).await;
    assert_eq!(u16::from(answer.metadata.response_code), 16, "BADVERS");
    let broken = [&question.to_vec().unwrap()[..14], &[0xff; 9]].concat();
    assert_eq!(exchange(server.address, &broken).await.metadata.response_code, ResponseCode::FormErr);
    let mixed = ask(server.address, "WeB.ShOp.svc.cluster.LOCAL.", RecordType::A, Some(1232)).await;
    assert_eq!(mixed.queries[0].name().to_string(), "WeB.ShOp.svc.cluster.LOCAL.", "case is kept");
    assert_eq!(mixed.answers[0].name.to_string(), "WeB.ShOp.svc.cluster.LOCAL.");
}
