//! Probes made for real: HTTP, TCP and gRPC from the node to the pod's address, commands in the container.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{BAD_STATUS, Outcome, Prober};
use crate::api::pod::{Container, Handler, HttpGet, HttpHeader, Port};
use crate::runtime::{Runtime, RuntimeError};

/// How much of an answer is read.
const BODY_BYTES_MAX: usize = 10 * 1024;

/// Makes probes for real.
pub struct Checker {
    runtime: Arc<dyn Runtime>,
}

impl Checker {
    /// Commands are run by `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime }
    }
}

#[async_trait]
impl Prober for Checker {
    async fn probe(
        &self,
        handler: &Handler,
        container: &Container,
        id: &str,
        address: Option<IpAddr>,
        timeout: Duration,
    ) -> Outcome {
        if let Some(exec) = &handler.exec {
            return match self.runtime.exec_output(id, &exec.command, timeout).await {
                Ok(output) if output.code == 0 => Outcome::Success,
                Ok(output) => Outcome::Failure(String::from_utf8_lossy(&output.output).into_owned()),
                Err(error @ RuntimeError::TimedOut(_)) => Outcome::Failure(error.to_string()),
                Err(error) => Outcome::Unknown(error.to_string()),
            };
        }
        let check = async {
            if let Some(get) = &handler.http_get {
                http(get, container, address).await
            } else if let Some(tcp) = &handler.tcp_socket {
                let (host, port) = target(&tcp.host, &tcp.port, container, address)?;
                connect(&host, port).await.map(|_| Outcome::Success)
            } else if let Some(grpc) = &handler.grpc {
                let (host, port) = target("", &Port::Number(grpc.port), container, address)?;
                grpc_health(&host, port, &grpc.service).await.map(|()| Outcome::Success)
            } else {
                Err("the probe names no way to probe".to_owned())
            }
        };
        match tokio::time::timeout(timeout, check).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(message)) => Outcome::Failure(message),
            Err(_) if handler.http_get.is_some() => Outcome::Failure(
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
            ),
            Err(_) => Outcome::Failure("i/o timeout".to_owned()),
        }
    }
}

fn target(host: &str, port: &Port, container: &Container, address: Option<IpAddr>) -> Result<(String, u16), String> {
    let port = port
        .resolve(container)
        .ok_or_else(|| format!("couldn't find port named {port:?} in container {}", container.name))?;
    let host = match (host, address) {
        ("", Some(address)) => address.to_string(),
        ("", None) => return Err("the pod has no address yet".to_owned()),
        (host, _) => host.to_owned(),
    };
    Ok((host, port))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| {
        let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let cause = match e.raw_os_error() {
            Some(libc::ECONNREFUSED) => "connect: connection refused".to_owned(),
            Some(libc::EHOSTUNREACH) => "connect: no route to host".to_owned(),
            Some(libc::ENETUNREACH) => "connect: network is unreachable".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {at}: {cause}")
    })?;
    Ok(stream)
}

async fn http(get: &HttpGet, container: &Container, address: Option<IpAddr>) -> Result<Outcome, String> {
    let (host, port) = target(&get.host, &get.port, container, address)?;
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut at = Location { tls: get.scheme.eq_ignore_ascii_case("https"), host, port, path };
    for _ in 0..REDIRECTS_MAX {
        let (status, location) = ask(&at, &get.http_headers).await?;
        match location.and_then(|to| at.follow(&to)) {
            Some(next) if next.host == at.host => at = next,
            // Elsewhere nobody says how this container is.
            Some(_) => {
                let told = format!("Probe terminated redirects: {status} leads to another host");
                return Ok(Outcome::Warned(told));
            }
            None if (200..400).contains(&status) => return Ok(Outcome::Success),
            None => return Err(format!("{BAD_STATUS}{status}")),
        }
    }
    Err(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", at.url()))
}

/// Go's limit.
const REDIRECTS_MAX: usize = 10;

/// What is asked for.
struct Location {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Location {
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Where a redirect leads; none if that makes no sense.
    fn follow(&self, to: &str) -> Option<Self> {
        if !to.contains("://") {
            let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let path = if to.starts_with('/') { to.to_owned() } else { format!("{folder}/{to}") };
            return Some(Self { tls: self.tls, host: self.host.clone(), port: self.port, path });
        }
        let uri: http::Uri = to.parse().ok()?;
        let tls = uri.scheme_str() == Some("https");
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Some(Self { tls, host, port, path })
    }
}

/// Asks once: the status, and where else to ask.
async fn ask(at: &Location, headers: &[HttpHeader]) -> Result<(u16, Option<String>), String> {
    let Location { tls, host, port, path } = at;
    let (authority, url) = (at.authority(), at.url());
    let wrap = |e: String| format!("Get \"{url}\": {e}");
    let mut request = http::Request::get(path)
        .header("host", &authority)
        .header("user-agent", "kube-probe/1.37")
        .header("accept", "*/*")
        .header("connection", "close");
    for header in headers {
        if header.name.eq_ignore_ascii_case("host") {
            if let Some(headers) = request.headers_mut()
                && let Ok(value) = http::HeaderValue::from_str(&header.value)
            {
                headers.insert(http::header::HOST, value);
            }
        } else {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| wrap(e.to_string()))?;
    let stream = connect(host, *port).await.map_err(wrap)?;
    let response = if *tls {
        let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(|e| wrap(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(insecure_tls().map_err(|e| wrap(e.to_string()))?));
        let stream = connector.connect(name, stream).await.map_err(|e| wrap(e.to_string()))?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    };
    response.map_err(wrap)
}

async fn exchange<S>(stream: S, request: http::Request<Empty<bytes::Bytes>>) -> Result<(u16, Option<String>), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let location = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
        // The body is read so that the server need not see a broken connection; what is in it does not matter.
        drop(Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await);
        Ok((status, location))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        closed = &mut connection => match closed {
            // The answer may be complete before the connection's end is seen.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Probes do not check certificates: they ask about health, and pods sign their own.
fn insecure_tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc_health(host: &str, port: u16, service: &str) -> Result<(), String> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|e| e.to_string())?
        .connect()
        .await
        .map_err(|_| format!("timeout: failed to connect service \"{authority}\" within the probe's time"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    let request = tonic::Request::new(HealthRequest { service: service.to_owned() });
    let response = client.unary(request, path, codec).await.map_err(|e| format!("rpc error: {}", e.message()))?;
    match response.into_inner().status {
        1 => Ok(()),
        status => Err(format!("service unhealthy (responded with \"{status}\")")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request by its path: `/local` leads to `/ok`, `/away` to another host, the rest is 200 or 500.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let head = match text.split(' ').nth(1).unwrap_or_default() {
                    "/local" => "302 Found\r\nLocation: /ok".to_owned(),
                    "/bad" => "302 Found\r\nLocation: fail".to_owned(),
                    "/away" => "302 Found\r\nLocation: http://0.0.0.0:1/".to_owned(),
                    "/round" => "302 Found\r\nLocation: /round".to_owned(),
                    "/ok" => "200 OK".to_owned(),
                    _ => "500 Error".to_owned(),
                };
                let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        port
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host() {
        let port = server().await;
        let probe = async |path: &str| {
            let get = HttpGet { path: path.to_owned(), port: Port::Number(port), ..HttpGet::default() };
            http(&get, &Container::default(), Some("127.0.0.1".parse().unwrap())).await
        };
        assert_eq!(probe("/local").await, Ok(Outcome::Success));
        assert_eq!(probe("/bad").await, Err("HTTP probe failed with statuscode: 500".to_owned()));
        assert!(matches!(probe("/away").await, Ok(Outcome::Warned(_))));
        assert!(probe("/round").await.unwrap_err().ends_with("stopped after 10 redirects"));
        let checker = Checker::new(Arc::new(crate::runtime::fake::FakeRuntime::new(
            xebec_clock::Clock::system(),
            [10, 244, 0, 0].into(),
        )));
        let hook = async |port: u16| {
            let get = HttpGet { path: "/fail".to_owned(), port: Port::Number(port), ..HttpGet::default() };
            let handler = Handler { http_get: Some(get), ..Handler::default() };
            let address = Some("127.0.0.1".parse().unwrap());
            checker.hook(&handler, &Container::default(), "id", address, Duration::from_secs(5)).await
        };
        assert_eq!(hook(port).await, Ok(()), "any answer is one");
        assert!(hook(1).await.is_err());
    }
}
