//! `spec.healthCheckNodePort`: tells a load balancer whether this node has an endpoint of the service (upstream
//! `pkg/proxy/healthcheck/service_health.go`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::desired::HealthCheck;

/// The ports that are answered on.
#[derive(Debug, Default)]
pub struct Server(parking_lot::Mutex<BTreeMap<u16, Port>>);

#[derive(Debug)]
struct Port {
    answer: Arc<parking_lot::RwLock<HealthCheck>>,
    task: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers on these ports, and no others.
    pub async fn set(&self, wanted: BTreeMap<u16, HealthCheck>) {
        self.0.lock().retain(|port, _| wanted.contains_key(port));
        for (port, check) in wanted {
            if let Some(known) = self.0.lock().get(&port) {
                *known.answer.write() = check;
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let answer = Arc::new(parking_lot::RwLock::new(check));
                    let task = tokio::spawn(serve(listener, Arc::clone(&answer)));
                    self.0.lock().insert(port, Port { answer, task });
                }
                Err(error) => {
                    let service = &check.service;
                    tracing::warn!(%error, %service, port, "cannot listen on a service's healthCheckNodePort");
                }
            }
        }
    }
}

/// On all addresses; of IPv4 where the machine has no IPv6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

async fn serve(listener: TcpListener, answer: Arc<parking_lot::RwLock<HealthCheck>>) {
    let router = Router::new().fallback(move || std::future::ready(respond(&answer.read())));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "a service's health check is no longer answered");
    }
}

/// Upstream's answer, to the letter.
fn respond(check: &HealthCheck) -> Response {
    let count = check.local_endpoints;
    let code = if count == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let (namespace, name) = (&check.service.namespace, &check.service.name);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": \
         {count},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::HeaderName::from_static("x-load-balancing-endpoint-weight"), count.to_string()),
    ];
    (code, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::views::ObjectName;

    #[tokio::test]
    async fn the_answer_is_upstreams() {
        let check = |local_endpoints| HealthCheck { service: ObjectName::new("default", "web"), local_endpoints };
        let response = respond(&check(2));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], "2");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "service": { "namespace": "default", "name": "web" }, "localEndpoints": 2, "serviceProxyHealthy": true,
        });
        assert_eq!(body, expected);
        assert_eq!(respond(&check(0)).status(), 503);
    }
}
