//! Events of the kernel's ring, as they are shown.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{Direction, DropReason, EVENT_DROP, Event, proto};

/// A flow that began, or a packet that was dropped or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Its number on the node: the later the greater, also beyond the agent's end.
    #[serde(default)]
    pub id: u64,
    /// When the agent heard of it.
    pub time: Timestamp,
    /// On which node.
    pub node: String,
    /// `forwarded` or `dropped`.
    pub verdict: String,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `ingress` or `egress` of a pod, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// `TCP`, `UDP`, ..., or its number.
    pub protocol: String,
    /// The source's address.
    pub source: std::net::IpAddr,
    /// Its port.
    pub source_port: u16,
    /// The destination's address.
    pub destination: std::net::IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// The service's number on the node; 0 for none.
    #[serde(default)]
    pub service: u32,
    /// Length of the packet in bytes.
    pub length: u32,
}

impl Flow {
    /// From an event.
    pub fn new(event: &Event, node: &str, id: u64, time: Timestamp) -> Self {
        let reason = DropReason::ALL.into_iter().find(|reason| *reason as u8 == event.reason);
        let direction = match event.direction {
            d if d == Direction::Ingress as u8 => Some("ingress".to_owned()),
            d if d == Direction::Egress as u8 => Some("egress".to_owned()),
            _ => None,
        };
        Self {
            id,
            time,
            node: node.to_owned(),
            verdict: if event.kind == EVENT_DROP { "dropped" } else { "forwarded" }.to_owned(),
            reason: reason.map(|reason| reason.name().to_owned()),
            direction,
            protocol: protocol(event.proto),
            source: event.src.to_ip(),
            source_port: event.src_port.get(),
            destination: event.dst.to_ip(),
            destination_port: event.dst_port.get(),
            service: event.service,
            length: event.length,
        }
    }

    /// As one line of JSON.
    pub fn line(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

/// The name of an IP protocol.
pub fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => "ICMP".to_owned(),
        other => other.to_string(),
    }
}
