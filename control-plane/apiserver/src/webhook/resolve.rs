//! From a service to the addresses of its ready endpoints.

use serde_json::Value;

use super::{CallError, Service};
use crate::json::{decode, list, text};
use crate::reader::Reader;

/// The addresses to try, `host:port`.
///
/// # Errors
///
/// In upstream's words: no such service or port, or no ready endpoint.
pub(super) fn resolve(reader: &dyn Reader, service: &Service) -> Result<Vec<String>, CallError> {
    let Service { namespace, name, port } = service;
    let missing = || CallError::Resolve(format!("service {name:?} not found"));
    let object = decode(&reader.get("", "services", namespace, name).ok_or_else(missing)?.bytes);
    if text(&object, "/spec/type") == "ExternalName" {
        return Ok(vec![format!("{}:{port}", text(&object, "/spec/externalName"))]);
    }
    let ports = list(&object, "/spec/ports");
    let no_port = || CallError::Resolve(format!("no service port {port} found for service {name:?}"));
    let port_name = ports.iter().find(|p| p["port"] == *port).map(|p| text(p, "/name")).ok_or_else(no_port)?;
    let mut addresses = Vec::new();
    for slice in reader.list("discovery.k8s.io", "endpointslices", namespace) {
        let of_service = slice
            .labels
            .iter()
            .any(|(key, value)| key.as_ref() == "kubernetes.io/service-name" && value.as_ref() == name.as_str());
        if of_service {
            ready_addresses(&decode(&slice.bytes), port_name, &mut addresses);
        }
    }
    if addresses.is_empty() {
        return Err(CallError::Resolve(format!("no endpoints available for service {name:?}")));
    }
    Ok(addresses)
}

pub(crate) fn ready_addresses(slice: &Value, port_name: &str, into: &mut Vec<String>) {
    let port = list(slice, "/ports").iter().find(|p| text(p, "/name") == port_name).and_then(|p| p["port"].as_u64());
    let Some(port) = port else { return };
    let six = text(slice, "/addressType") == "IPv6";
    for endpoint in list(slice, "/endpoints") {
        // Unknown is ready.
        if endpoint["conditions"]["ready"].as_bool() == Some(false) {
            continue;
        }
        for address in list(endpoint, "/addresses").iter().filter_map(Value::as_str) {
            into.push(if six { format!("[{address}]:{port}") } else { format!("{address}:{port}") });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_reader::FakeReader;

    #[test]
    fn services_are_resolved_to_what_is_ready() {
        let reader = FakeReader::new();
        let service = Service { namespace: "ns".into(), name: "hook".into(), port: 443 };
        let error = |reader: &FakeReader| resolve(reader, &service).expect_err("an error").to_string();
        assert_eq!(error(&reader), "service \"hook\" not found");
        reader.put(
            "",
            "services",
            json!({"metadata": {"name": "hook", "namespace": "ns"},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 8443}]}}),
        );
        assert_eq!(error(&reader), "no endpoints available for service \"hook\"");
        reader.put(
            "discovery.k8s.io",
            "endpointslices",
            json!({
            "metadata": {"name": "hook-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4", "ports": [{"name": "https", "port": 8443}, {"name": "other", "port": 1}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]}),
        );
        assert_eq!(resolve(&*reader, &service), Ok(vec!["10.0.0.1:8443".to_owned()]));
        let other = Service { port: 80, ..service.clone() };
        let message = resolve(&*reader, &other).expect_err("no such port").to_string();
        assert_eq!(message, "no service port 80 found for service \"hook\"");
    }
}
