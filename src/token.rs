//! `xebec token`: what new nodes join a cluster with.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use xebec_clock::{Clock, Random};
use xebec_pki::BootstrapToken;

use crate::cluster::{Name, Paths};
use crate::server::config::ServerConfig;
use crate::{agent, api, kubeconfig};

/// Makes, lists and removes the tokens that nodes join with.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The kubeconfig to use [default: that of the server on this machine, or $KUBECONFIG]
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// A cluster of `xebec up` on this machine
    #[arg(long, global = true, conflicts_with = "kubeconfig")]
    name: Option<Name>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a token, and prints the command that a node joins with
    Create {
        /// How long it is good for (24h, 30m, 7d); 0 is for ever
        #[arg(long, default_value = "24h", value_parser = parse_ttl)]
        ttl: SignedDuration,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Print the token only
        #[arg(long)]
        quiet: bool,
    },
    /// Lists the tokens, without their secret halves
    List,
    /// Removes a token, given by its public half or as a whole
    Delete {
        /// The token, or its first six characters
        token: String,
    },
}

/// The group that nodes joining are in, besides `system:bootstrappers`.
pub const JOIN_GROUP: &str = "system:bootstrappers:xebec:nodes";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

fn parse_ttl(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("{text:?} is not a duration such as 24h, 30m or 0");
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let (number, seconds) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        Some((number, "d")) => (number, 86_400),
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    if number == 0 { Err(wrong()) } else { Ok(SignedDuration::from_secs(i64::from(number) * seconds)) }
}

/// `xebec token`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let path = kubeconfig_path(args)?;
        let client = api::client(&path).await?;
        match &args.command {
            Command::Create { ttl, description, quiet } => create(&client, &path, *ttl, description, *quiet).await,
            Command::List => list(&client).await,
            Command::Delete { token } => delete(&client, token).await,
        }
    })
}

fn kubeconfig_path(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.kubeconfig {
        return Ok(path.clone());
    }
    if let Some(name) = &args.name {
        return Ok(Paths::of(name).kubeconfig());
    }
    let own = ServerConfig::default().data_dir.join("admin.kubeconfig");
    if env::var_os("KUBECONFIG").is_none() && own.exists() {
        return Ok(own);
    }
    kubeconfig::users_own()
}

async fn create(
    client: &kube::Client,
    kubeconfig: &Path,
    ttl: SignedDuration,
    description: &str,
    quiet: bool,
) -> anyhow::Result<()> {
    let token = BootstrapToken::generate(&Random::system());
    let expiration = if ttl.is_zero() { None } else { Some(Clock::system().now_seconds().checked_add(ttl)?) };
    let secret = token.to_secret(expiration, &[JOIN_GROUP], description);
    let request = http::Request::post(SECRETS)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&secret)?)?;
    client.request::<Value>(request).await.context("cannot make the token")?;
    if quiet {
        println!("{token}");
        return Ok(());
    }
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let cluster = file.clusters.first().and_then(|c| c.cluster.clone()).context("the kubeconfig names no cluster")?;
    let ca = cluster.certificate_authority_data.context("the kubeconfig holds no CA certificate")?;
    let ca = BASE64_STANDARD.decode(ca).context("the kubeconfig's CA certificate is not base64")?;
    let server = cluster.server.context("the kubeconfig names no server")?;
    println!("xebec agent --server {server} --token {token} --ca-hash {}", agent::discovery::pin(&ca)?);
    Ok(())
}

async fn list(client: &kube::Client) -> anyhow::Result<()> {
    let selector = "fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
    let request = http::Request::get(format!("{SECRETS}?{selector}")).body(Vec::new())?;
    let secrets: Value = client.request(request).await.context("cannot list the tokens")?;
    println!("{:6}  {:20}  DESCRIPTION", "ID", "EXPIRES");
    let now = Clock::system().now();
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let field = |name: &str| {
            let bytes = BASE64_STANDARD.decode(secret["data"][name].as_str().unwrap_or_default()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let expires = field("expiration");
        let over = expires.parse::<Timestamp>().is_ok_and(|at| at <= now);
        let expires = match (expires.as_str(), over) {
            ("", _) => "never".to_owned(),
            (at, true) => format!("{at} (over)"),
            (at, false) => at.to_owned(),
        };
        println!("{:6}  {expires:20}  {}", field("token-id"), field("description"));
    }
    Ok(())
}

async fn delete(client: &kube::Client, token: &str) -> anyhow::Result<()> {
    let id = token.split_once('.').map_or(token, |(id, _)| id);
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        bail!("{token:?} is not a token, nor the first half of one");
    }
    let request = http::Request::delete(format!("{SECRETS}/bootstrap-token-{id}")).body(Vec::new())?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no token {id}"),
        Err(e) => Err(e).context("cannot remove the token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_ttl("24h"), Ok(SignedDuration::from_hours(24)));
        assert_eq!(parse_ttl("7d"), Ok(SignedDuration::from_hours(7 * 24)));
        assert_eq!(parse_ttl("0"), Ok(SignedDuration::ZERO));
        for wrong in ["", "h", "5", "-1h", "0h", "1w", "€"] {
            assert!(parse_ttl(wrong).is_err(), "{wrong}");
        }
    }
}
