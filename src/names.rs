//! Who has which address: pods, and services by their own addresses and their endpoints'.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::kubelets::text;

/// Namespace and name.
pub type Name = (String, String);

/// Who has which address.
#[derive(Debug, Default)]
pub struct Names {
    /// Pods with addresses of their own.
    pub pods: BTreeMap<IpAddr, Name>,
    /// Services, by address and port.
    pub services: BTreeMap<(IpAddr, u16), Name>,
}

impl Names {
    /// Takes in a Pod.
    pub fn add_pod(&mut self, pod: &Value) {
        let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        if ended || pod["spec"]["hostNetwork"] == true {
            return;
        }
        for ip in list(pod, "/status/podIPs") {
            if let Ok(ip) = text(ip, "/ip").parse() {
                self.pods.insert(ip, name(pod));
            }
        }
    }

    /// Takes in an EndpointSlice.
    pub fn add_slice(&mut self, slice: &Value) {
        let service = text(slice, "/metadata/labels/kubernetes.io~1service-name").to_owned();
        let service = (text(slice, "/metadata/namespace").to_owned(), service);
        for endpoint in list(slice, "/endpoints") {
            for port in list(slice, "/ports") {
                self.add(&endpoint["addresses"][0], &port["port"], &service);
            }
        }
    }

    /// Takes in a Service.
    pub fn add_service(&mut self, service: &Value) {
        for port in list(service, "/spec/ports") {
            for ip in list(service, "/spec/clusterIPs") {
                self.add(ip, &port["port"], &name(service));
            }
            for ip in list(service, "/status/loadBalancer/ingress") {
                self.add(&ip["ip"], &port["port"], &name(service));
            }
        }
    }

    fn add(&mut self, ip: &Value, port: &Value, service: &Name) {
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
        if let (Some(Ok(ip)), Some(port)) = (ip.as_str().map(str::parse), port) {
            self.services.insert((ip, port), service.clone());
        }
    }

    /// Whether anybody is known to have the address.
    pub fn knows(&self, ip: IpAddr) -> bool {
        self.pods.contains_key(&ip) || self.services.range((ip, 0)..=(ip, u16::MAX)).next().is_some()
    }
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name(object: &Value) -> Name {
    (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}
