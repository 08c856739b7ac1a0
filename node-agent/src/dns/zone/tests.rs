use super::*;

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()])
        .expect("a zone");
    let http = Port { name: "http".into(), protocol: "tcp".into(), number: 80 };
    zone.set_service(Service {
        namespace: "shop".into(),
        name: "web".into(),
        addresses: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![http.clone()],
        external_name: None,
    });
    zone.set_service(Service { namespace: "shop".into(), name: "db".into(), ..Service::default() });
    zone.set_slice(Slice {
        namespace: "shop".into(),
        name: "db-x".into(),
        service: "db".into(),
        endpoints: vec![
            endpoint("10.244.0.1", Some("db-0"), true),
            endpoint("10.244.0.2", None, true),
            endpoint("10.244.0.3", Some("db-2"), false),
        ],
        ports: vec![Port { name: "sql".into(), protocol: "tcp".into(), number: 5432 }],
    });
    let away = Service { external_name: Some("db.example.com".into()), ..service("shop", "away") };
    zone.set_service(away);
    zone
}

fn service(namespace: &str, name: &str) -> Service {
    Service { namespace: namespace.into(), name: name.into(), ..Service::default() }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint { addresses: vec![address.parse().unwrap()], hostname: hostname.map(Into::into), ready }
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Found {
    zone.lookup(&LowerName::from(Name::from_ascii(name).unwrap()), kind, 0)
}

/// The answers as text, without name and TTL; or what else was found.
fn answers(zone: &Zone, name: &str, kind: RecordType) -> Vec<String> {
    match ask(zone, name, kind) {
        Found::Records { answers, .. } => answers.iter().map(|r| r.data.to_string()).collect(),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn services_have_their_cluster_address() {
    let zone = zone();
    assert_eq!(answers(&zone, "web.shop.svc.cluster.local.", RecordType::A), ["10.96.0.7"]);
    assert_eq!(answers(&zone, "WEB.shop.SVC.cluster.local.", RecordType::A), ["10.96.0.7"]);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", RecordType::AAAA), Found::NoData);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", RecordType::MX), Found::NoData);
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    let zone = zone();
    assert_eq!(answers(&zone, "db.shop.svc.cluster.local.", RecordType::A), ["10.244.0.1", "10.244.0.2"]);
    assert_eq!(answers(&zone, "db-0.db.shop.svc.cluster.local.", RecordType::A), ["10.244.0.1"]);
    assert_eq!(answers(&zone, "10-244-0-2.db.shop.svc.cluster.local.", RecordType::A), ["10.244.0.2"]);
    assert_eq!(ask(&zone, "db-2.db.shop.svc.cluster.local.", RecordType::A), Found::NotFound, "not ready");
}

#[test]
fn answers_take_turns() {
    let zone = zone();
    let name = LowerName::from(Name::from_ascii("db.shop.svc.cluster.local.").unwrap());
    let first = |turn| match zone.lookup(&name, RecordType::A, turn) {
        Found::Records { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([first(0), first(1), first(2)], ["10.244.0.1", "10.244.0.2", "10.244.0.1"]);
}

#[test]
fn srv_names_ports_and_targets() {
    let zone = zone();
    assert_eq!(
        answers(&zone, "_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV),
        ["0 100 80 web.shop.svc.cluster.local."]
    );
    assert_eq!(
        answers(&zone, "_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV),
        ["0 100 5432 db-0.db.shop.svc.cluster.local.", "0 100 5432 10-244-0-2.db.shop.svc.cluster.local."]
    );
    let Found::Records { additionals, .. } = ask(&zone, "_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV)
    else {
        panic!("no records");
    };
    assert_eq!(additionals[0].data.to_string(), "10.96.0.7");
    assert_eq!(ask(&zone, "_http._udp.web.shop.svc.cluster.local.", RecordType::SRV), Found::NotFound);
    assert_eq!(ask(&zone, "_http._tcp.web.shop.svc.cluster.local.", RecordType::A), Found::NoData);
}

#[test]
fn reverse_names() {
    let zone = zone();
    assert_eq!(answers(&zone, "7.0.96.10.in-addr.arpa.", RecordType::PTR), ["web.shop.svc.cluster.local."]);
    assert_eq!(answers(&zone, "1.0.244.10.in-addr.arpa.", RecordType::PTR), ["db-0.db.shop.svc.cluster.local."]);
    assert_eq!(ask(&zone, "3.0.244.10.in-addr.arpa.", RecordType::PTR), Found::NotFound);
    assert_eq!(ask(&zone, "1.2.0.192.in-addr.arpa.", RecordType::PTR), Found::Elsewhere);
    assert_eq!(ask(&zone, "0.96.10.in-addr.arpa.", RecordType::PTR), Found::Elsewhere);
}

#[test]
fn what_exists_and_what_does_not() {
    let zone = zone();
    for name in ["cluster.local.", "svc.cluster.local.", "shop.svc.cluster.local."] {
        assert_eq!(ask(&zone, name, RecordType::A), Found::NoData, "{name}");
    }
    for name in [
        "nope.cluster.local.",
        "nope.svc.cluster.local.",
        "x.shop.svc.cluster.local.",
        "a.b.c.web.shop.svc.cluster.local.",
    ] {
        assert_eq!(ask(&zone, name, RecordType::A), Found::NotFound, "{name}");
    }
    for name in ["example.com.", "local.", "xcluster.local."] {
        assert_eq!(ask(&zone, name, RecordType::A), Found::Elsewhere, "{name}");
    }
    assert_eq!(answers(&zone, "dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
    assert_eq!(answers(&zone, "10-244-0-9.shop.pod.cluster.local.", RecordType::A), ["10.244.0.9"]);
    assert_eq!(ask(&zone, "10-1-0-9.shop.pod.cluster.local.", RecordType::A), Found::NotFound);
}

#[test]
fn external_names_are_aliases() {
    let Found::Alias(record, target) = ask(&zone(), "away.shop.svc.cluster.local.", RecordType::A) else {
        panic!("no alias");
    };
    assert_eq!(target.to_string(), "db.example.com.");
    assert_eq!(record.record_type(), RecordType::CNAME);
}

#[test]
fn what_goes_leaves_nothing_behind() {
    let mut zone = zone();
    for name in ["web", "db", "away"] {
        zone.remove_service("shop", name);
    }
    assert_eq!(ask(&zone, "db.shop.svc.cluster.local.", RecordType::A), Found::NotFound, "slices alone are no name");
    zone.remove_slice("shop", "db-x");
    assert_eq!(ask(&zone, "shop.svc.cluster.local.", RecordType::A), Found::NotFound);
    assert!(zone.reverse.is_empty() && zone.namespaces.is_empty() && zone.slices.is_empty());
}

#[test]
fn a_whole_list_replaces_what_was_known() {
    let mut zone = zone();
    let web = |address: &str| Service { addresses: vec![address.parse().unwrap()], ..service("shop", "web") };
    zone.replace_services(vec![web("10.96.0.8")]);
    assert_eq!(answers(&zone, "web.shop.svc.cluster.local.", RecordType::A), ["10.96.0.8"]);
    assert_eq!(ask(&zone, "away.shop.svc.cluster.local.", RecordType::A), Found::NotFound);
    assert_eq!(ask(&zone, "7.0.96.10.in-addr.arpa.", RecordType::PTR), Found::NotFound);
    zone.replace_slices(Vec::new());
    zone.replace_services(Vec::new());
    assert!(zone.reverse.is_empty() && zone.namespaces.is_empty() && zone.slices.is_empty());
}

#[test]
fn a_slice_follows_its_label() {
    let mut zone = zone();
    zone.set_service(service("shop", "other"));
    let moved = Slice {
        namespace: "shop".into(),
        name: "db-x".into(),
        service: "other".into(),
        endpoints: vec![endpoint("10.244.0.1", None, true)],
        ports: Vec::new(),
    };
    zone.set_slice(moved);
    assert_eq!(answers(&zone, "other.shop.svc.cluster.local.", RecordType::A), ["10.244.0.1"]);
    assert_eq!(ask(&zone, "db.shop.svc.cluster.local.", RecordType::A), Found::NoData);
}

proptest::proptest! {
    #[test]
    fn any_name_is_answered(name in "([a-z0-9_-]{1,10}\\.){0,6}(cluster\\.local|in-addr\\.arpa|ip6\\.arpa)?\\.?") {
        if let Ok(name) = Name::from_ascii(&name) {
            zone().lookup(&LowerName::from(name), RecordType::A, 3);
        }
    }
}
