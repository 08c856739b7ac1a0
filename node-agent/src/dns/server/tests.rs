use std::net::{IpAddr, Ipv4Addr};

use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;

use super::super::zone::{Service, Zone};
use super::*;

struct Running {
    address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(services: Vec<Service>, origin: &str, upstream: Option<TokioResolver>) -> Running {
    let mut zone = Zone::new(origin, vec!["10.96.0.0/16".parse().unwrap()]).unwrap();
    services.into_iter().for_each(|s| zone.set_service(s));
    // A free port: bound once to learn it. Both sockets must be free, so it is tried until they are.
    for _ in 0..20 {
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let names = Names::new(zone.clone());
        if let Ok(server) = DnsServer::bind(address, names, upstream.clone(), Random::seeded(1)).await {
            let cancel = CancellationToken::new();
            tokio::spawn(server.run(cancel.clone()));
            return Running { address, _stop: cancel.drop_guard() };
        }
    }
    panic!("no free port on loopback");
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
    let names = Names::new(Zone::new("cluster.local", Vec::new()).unwrap());
    let error = DnsServer::bind(server.address, names, None, Random::seeded(1)).await.err().unwrap();
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
}

#[test]
fn resolver_settings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    assert!(upstream(&path).is_err(), "no file");
    std::fs::write(&path, "search example.com\n").unwrap();
    assert!(upstream(&path).unwrap().is_none());
    std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { assert!(upstream(&path).unwrap().is_some()) });
}
