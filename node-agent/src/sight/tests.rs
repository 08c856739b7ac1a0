use jiff::Timestamp;
use xebec_ebpf_loader::layout::{Addr, Direction, DropReason, EVENT_DROP, EVENT_NEW_FLOW, Event, Port, proto};

use super::{Flow, Recent};
use crate::sight::recent::KEPT_MAX;

fn event() -> Event {
    Event {
        at_ns: 5,
        src: Addr::from(std::net::Ipv4Addr::new(10, 244, 1, 5)),
        dst: Addr::from(std::net::Ipv4Addr::new(10, 244, 2, 7)),
        src_port: Port::new(40_000),
        dst_port: Port::new(80),
        proto: proto::TCP,
        kind: EVENT_NEW_FLOW,
        reason: 0,
        direction: Direction::Egress as u8,
        ifindex: 3,
        length: 74,
        service: 0,
        backend: 0,
    }
}

#[test]
fn a_flow_is_one_line_that_says_what_happened() {
    let flow = Flow::new(&event(), "n1", 9, Timestamp::UNIX_EPOCH);
    assert_eq!(
        String::from_utf8(flow.line().to_vec()).unwrap(),
        "{\"id\":9,\"time\":\"1970-01-01T00:00:00Z\",\"node\":\"n1\",\"verdict\":\"forwarded\",\"direction\":\"egress\",\
         \"protocol\":\"TCP\",\"source\":\"10.244.1.5\",\"sourcePort\":40000,\"destination\":\"10.244.2.7\",\
         \"destinationPort\":80,\"service\":0,\"length\":74}\n"
    );
    assert_eq!(serde_json::from_slice::<Flow>(&flow.line()).unwrap(), flow);
}

#[test]
fn a_drop_says_why() {
    let reason = DropReason::PolicyIngress;
    let event = Event { kind: EVENT_DROP, reason: reason as u8, direction: 0, proto: 47, ..event() };
    let flow = Flow::new(&event, "n1", 9, Timestamp::UNIX_EPOCH);
    assert_eq!((flow.verdict.as_str(), flow.reason.as_deref()), ("dropped", Some("policy-ingress")));
    assert_eq!((flow.direction, flow.protocol.as_str()), (None, "47"));
}

/// Numbers go up, whatever the clock does, and the oldest goes when there are too many.
#[test]
fn the_last_are_kept() {
    let mut recent = Recent::default();
    let at = |us: i64| Timestamp::from_microsecond(us).unwrap();
    let ids = [10, 10, 5, 20].map(|us| recent.push(&event(), at(us)));
    assert_eq!(ids, [10, 11, 12, 20]);
    let after = |recent: &Recent, id| recent.after(id, "n1").map(|flow| (flow.id, flow.time)).collect::<Vec<_>>();
    assert_eq!(after(&recent, 11), [(12, at(5)), (20, at(20))]);
    for _ in 0..KEPT_MAX {
        recent.push(&event(), at(30));
    }
    assert_eq!(after(&recent, 0).len(), KEPT_MAX);
    assert_eq!(after(&recent, 0)[0], (30, at(30)));
}
