//! Who the agent is to the cluster: its client and serving certificates, asked for, kept, and renewed before they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::Service;
use xebec_clock::{Clock, Random};
use xebec_pki::{BootstrapToken, Certified, KeyAndRequest, Validity};

use crate::cluster::write_atomically;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Between tries to reach the server, and looks at a request that is not signed yet.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A request that nobody has signed by then is asked again.
const REQUEST_PATIENCE: u32 = 40;
/// How often certificates are looked at: the clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A certificate is renewed after a part of its life between these, so that nodes don't all ask at once (the kubelet's).
const RENEW_PERCENT: std::ops::Range<u8> = 70..90;

/// Where the agent is known, and as what.
#[derive(Clone, Debug)]
pub struct Node {
    /// `https://HOST:PORT`.
    pub server: http::Uri,
    /// The CA certificate, PEM.
    pub ca: String,
    /// The node's name.
    pub name: String,
    /// Names and addresses that the agent serves as.
    pub serves_as: Vec<String>,
    /// Where certificates and keys are kept.
    pub dir: PathBuf,
    /// What the node joins with, while it has no certificate that is good.
    pub token: Option<BootstrapToken>,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

/// Which of the two certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be somebody to the API server.
    Client,
    /// To be asked for logs and the like by it.
    Serving,
}

impl Purpose {
    fn file(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Serving => "serving",
        }
    }

    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> [&'static str; 2] {
        ["digital signature", if self == Self::Client { "client auth" } else { "server auth" }]
    }
}

impl Node {
    /// The certificate kept from before, if there is one that is good now.
    pub fn kept(&self, purpose: Purpose) -> Option<Certified> {
        let text = fs::read_to_string(self.path(purpose)).ok()?;
        // One file, so that the key and the certificate can't be of different times.
        let at = text.find("-----BEGIN CERTIFICATE-----")?;
        let (key_pem, certificate_pem) = (text[..at].to_owned(), text[at..].to_owned());
        let validity = Validity::of_pem(&certificate_pem).ok()?;
        let now = self.clock.now();
        // Of the CA that is trusted now, too.
        let usable = !validity.expired(now) && key_pem.contains("PRIVATE KEY") && self.fits_ca();
        usable.then_some(Certified { certificate_pem, key_pem })
    }

    fn path(&self, purpose: Purpose) -> PathBuf {
        self.dir.join(format!("{}.pem", purpose.file()))
    }

    /// False if what is kept is of another cluster: the data directory was used with one before.
    fn fits_ca(&self) -> bool {
        fs::read_to_string(self.dir.join("ca.crt")).is_ok_and(|kept| kept == self.ca)
    }

    fn keep(&self, purpose: Purpose, certified: &Certified) -> anyhow::Result<()> {
        write_atomically(&self.dir.join("ca.crt"), self.ca.as_bytes(), 0o644)?;
        let text = format!("{}\n{}", certified.key_pem.trim_end(), certified.certificate_pem);
        write_atomically(&self.path(purpose), text.as_bytes(), 0o600)
    }

    /// A client that joins with a token.
    pub fn joining_client(&self, token: &BootstrapToken) -> anyhow::Result<kube::Client> {
        let mut config = self.config()?;
        config.auth_info.token = Some(token.to_string().into());
        kube::Client::try_from(config).context("cannot make a client")
    }

    /// A client that is the node.
    pub fn client(&self, certified: &Certified) -> anyhow::Result<kube::Client> {
        let mut config = self.config()?;
        config.auth_info.client_certificate_data = Some(BASE64_STANDARD.encode(&certified.certificate_pem));
        config.auth_info.client_key_data = Some(BASE64_STANDARD.encode(&certified.key_pem).into());
        kube::Client::try_from(config).context("cannot make a client with the node's certificate")
    }

    fn config(&self) -> anyhow::Result<kube::Config> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let mut config = kube::Config::new(self.server.clone());
        let roots = CertificateDer::pem_slice_iter(self.ca.as_bytes()).collect::<Result<Vec<_>, _>>();
        let roots = roots.context("the CA certificate is not PEM")?;
        config.root_cert = Some(roots.iter().map(|c| c.to_vec()).collect());
        // Under this name the server notes what the node changes.
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("kubelet")));
        config.connect_timeout = Some(Duration::from_secs(5));
        // Watches are silent for minutes; the server ends them in time.
        config.read_timeout = None;
        Ok(config)
    }

    /// Has a certificate made and keeps it. Tries until it succeeds: the server may be starting, or out of reach.
    /// `client` gives what is asked by, each time.
    pub async fn obtain(
        &self,
        purpose: Purpose,
        client: impl Fn() -> anyhow::Result<kube::Client>,
    ) -> anyhow::Result<Certified> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask(purpose, &client()?).await {
                Ok(certified) => {
                    self.keep(purpose, &certified)?;
                    return Ok(certified);
                }
                Err(e) if final_refusal(&e) => return Err(e),
                Err(e) if unauthorized(&e) && pause >= Duration::from_secs(1) => tracing::warn!(
                    "the server does not accept who we say we are ({e:#}): a join token may be over (xebec token list)"
                ),
                Err(e) if pause >= LAST_PAUSE => tracing::warn!("no {} certificate yet: {e:#}", purpose.file()),
                Err(e) => tracing::debug!("no {} certificate yet: {e:#}", purpose.file()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn ask(&self, purpose: Purpose, client: &kube::Client) -> anyhow::Result<Certified> {
        let user = format!("system:node:{}", self.name);
        let names: Vec<&str> = match purpose {
            Purpose::Client => Vec::new(),
            Purpose::Serving => self.serves_as.iter().map(String::as_str).collect(),
        };
        let made = KeyAndRequest::generate(&user, &["system:nodes"], &names)?;
        let body = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {
                "request": BASE64_STANDARD.encode(&made.request_pem),
                "signerName": purpose.signer(),
                "usages": purpose.usages(),
            },
        });
        let post = http::Request::post(REQUESTS)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&body)?)?;
        let created: Value = client.request(post).await?;
        let name = created["metadata"]["name"].as_str().context("the server made a request without a name")?.to_owned();
        let mut pause = FIRST_PAUSE;
        for _ in 0..REQUEST_PATIENCE {
            let get = http::Request::get(format!("{REQUESTS}/{name}")).body(Vec::new())?;
            let request: Value = client.request(get).await?;
            if let Some(certificate) = request["status"]["certificate"].as_str() {
                let pem = BASE64_STANDARD.decode(certificate).context("the certificate is not base64")?;
                let certificate_pem = String::from_utf8(pem).context("the certificate is not PEM")?;
                return Ok(Certified { certificate_pem, key_pem: made.key_pem });
            }
            for condition in request["status"]["conditions"].as_array().into_iter().flatten() {
                if matches!(condition["type"].as_str(), Some("Denied" | "Failed")) {
                    bail!(Refused(format!("{}: {}", condition["reason"], condition["message"])));
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LAST_PAUSE);
        }
        bail!("request {name} is not signed")
    }

    /// When a certificate is to be renewed.
    fn renewal(&self, certified: &Certified) -> Timestamp {
        let spread = u64::from(RENEW_PERCENT.end - RENEW_PERCENT.start);
        let percent = RENEW_PERCENT.start + u8::try_from(self.random.below(spread)).unwrap_or(0);
        Validity::of_pem(&certified.certificate_pem).map_or(Timestamp::MIN, |v| v.renew_at(percent))
    }

    /// By whom a new certificate is asked for: by the node itself, and if its own is over (the machine was off for long,
    /// or its clock was set forward), by what it joined with.
    fn asking(&self, purpose: Purpose, current: &Certified, client: &kube::Client) -> anyhow::Result<kube::Client> {
        let over = Validity::of_pem(&current.certificate_pem).map_or(true, |v| v.expired(self.clock.now()));
        match &self.token {
            Some(token) if over && purpose == Purpose::Client => self.joining_client(token),
            _ => Ok(client.clone()),
        }
    }

    /// Renews a certificate for as long as the program runs; `renewed` gets each new one.
    pub async fn keep_fresh(
        &self,
        purpose: Purpose,
        mut current: Certified,
        client: kube::Client,
        mut renewed: impl FnMut(&Certified) -> anyhow::Result<()>,
    ) {
        let mut renewal = self.renewal(&current);
        loop {
            let wait = Duration::try_from(renewal.duration_since(self.clock.now())).unwrap_or(Duration::ZERO);
            if !wait.is_zero() {
                sleep(wait.min(LOOK_EVERY)).await;
                continue;
            }
            let new = self.obtain(purpose, || self.asking(purpose, &current, &client)).await;
            match new.and_then(|new| renewed(&new).map(|()| new)) {
                Ok(new) => {
                    tracing::info!("renewed the {} certificate", purpose.file());
                    renewal = self.renewal(&new);
                    current = new;
                    // Whatever its dates say, the next one is not asked for at once.
                    sleep(Duration::from_secs(1)).await;
                }
                Err(e) => {
                    tracing::error!("cannot renew the {} certificate: {e:#}", purpose.file());
                    sleep(LAST_PAUSE).await;
                }
            }
        }
    }
}

/// The cluster's answer is no.
#[derive(Debug, thiserror::Error)]
#[error("the cluster refuses this node: {0}")]
struct Refused(String);

/// Errors that trying again does not mend: the request was denied. A token that is not accepted is none of them, since a
/// server that is starting may not know it yet.
fn final_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some()
}

/// True if the server did not accept who we say we are.
fn unauthorized(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if matches!(status.code, 401 | 403))
}

/// A client whose certificate can be changed while it is in use.
#[derive(Clone)]
pub struct SwitchingClient(Arc<RwLock<kube::Client>>);

impl SwitchingClient {
    /// Begins with `client`.
    pub fn new(client: kube::Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    /// Has requests from now on go by `client`; those under way, watches too, end as they would have.
    pub fn switch(&self, client: kube::Client) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// As a client.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }
}

impl Service<http::Request<Body>> for SwitchingClient {
    type Response = http::Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move { client.send(request).await })
    }
}

/// Makes a directory that only its owner may look into.
pub fn private_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", dir.display()))
}

#[cfg(test)]
mod tests;
