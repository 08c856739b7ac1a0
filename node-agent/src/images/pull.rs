//! Pulls from registries (distribution-spec): manifest, blobs, names.

use std::net::IpAddr;

use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client as Registry, Reference};

use super::content::{self, Lease};
use super::manifest::{ACCEPTED, Descriptor, Document};
use super::reference::ImageName;
use super::store::Inner;
use crate::runtime::{Credentials, LocalImage, RuntimeError};

/// How many blobs of an image are fetched at the same time.
const BLOBS_AT_ONCE: usize = 3;

/// Pulls an image, trying each of `credentials` and then none.
pub(super) async fn pull(
    inner: &Inner,
    name: &ImageName,
    credentials: &[Credentials],
) -> Result<LocalImage, RuntimeError> {
    // Whichever part of the process does so first: the choice is the same everywhere.
    drop(rustls::crypto::ring::default_provider().install_default());
    let protocol = if is_plain(&name.registry, &inner.insecure) { ClientProtocol::Http } else { ClientProtocol::Https };
    let registry = Registry::new(ClientConfig { protocol, ..ClientConfig::default() });
    let reference = reference(name);
    let mut attempts: Vec<RegistryAuth> =
        credentials.iter().map(|c| RegistryAuth::Basic(c.username.clone(), c.password.clone())).collect();
    attempts.push(RegistryAuth::Anonymous);
    let mut first_error = None;
    for auth in attempts {
        match pull_as(inner, &registry, name, &reference, &auth).await {
            Ok(image) => return Ok(image),
            Err(error @ (RuntimeError::Down(_) | RuntimeError::Invalid(_))) => return Err(error),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| RuntimeError::Failed("nothing was tried".to_owned())))
}

async fn pull_as(
    inner: &Inner,
    registry: &Registry,
    name: &ImageName,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<LocalImage, RuntimeError> {
    let failed = |what: &str, error: &dyn std::error::Error| {
        RuntimeError::Failed(format!("failed to pull and unpack image \"{name}\": failed to {what}: {}", chain(error)))
    };
    let (bytes, digest) = registry
        .pull_manifest_raw(reference, auth, &ACCEPTED)
        .await
        .map_err(|e| failed(&format!("resolve reference \"{name}\""), &e))?;
    let document = Document::parse(&bytes)?;
    let lease = Lease::take(&inner.client, &inner.clock, &inner.random).await?;
    let result = async {
        let target = descriptor(&document, &bytes, digest);
        content::write_bytes(&inner.client, &lease, &target, bytes.to_vec()).await?;
        let manifest = if document.is_index() {
            let chosen = document.for_this_machine()?.clone();
            let by_digest = reference.clone_with_digest(chosen.digest.clone());
            let (bytes, _) = registry
                .pull_manifest_raw(&by_digest, auth, &ACCEPTED)
                .await
                .map_err(|e| failed("fetch the manifest", &e))?;
            let manifest = Document::parse(&bytes)?;
            content::write_bytes(&inner.client, &lease, &chosen, bytes.to_vec()).await?;
            manifest
        } else {
            document
        };
        let blobs: Vec<Descriptor> = manifest.layers.iter().chain(&manifest.config).cloned().collect();
        let mut fetches = futures::stream::iter(blobs)
            .map(|blob| fetch(inner, registry, reference, &lease, blob))
            .buffer_unordered(BLOBS_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        drop(fetches);
        inner.settle(&lease, &name.to_string(), &target).await
    };
    let result = result.await;
    lease.end().await;
    result
}

async fn fetch(
    inner: &Inner,
    registry: &Registry,
    reference: &Reference,
    lease: &Lease,
    blob: Descriptor,
) -> Result<(), RuntimeError> {
    if content::has(&inner.client, &blob.digest).await? {
        return Ok(());
    }
    let wanted = OciDescriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: blob.size,
        ..OciDescriptor::default()
    };
    let failed = |e: String| RuntimeError::Failed(format!("failed to copy blob {}: {e}", blob.digest));
    let stream = registry.pull_blob_stream(reference, &wanted).await.map_err(|e| failed(chain(&e)))?;
    let source = stream.stream.map(|piece| piece.map_err(|e| failed(e.to_string())));
    content::write(&inner.client, lease, &blob, source).await
}

fn reference(name: &ImageName) -> Reference {
    let (registry, repository) = (name.registry.clone(), name.repository.clone());
    match (&name.digest, &name.tag) {
        (Some(digest), _) => Reference::with_digest(registry, repository, digest.clone()),
        (None, tag) => Reference::with_tag(registry, repository, tag.clone().unwrap_or_else(|| "latest".to_owned())),
    }
}

fn descriptor(document: &Document, bytes: &[u8], digest: String) -> Descriptor {
    let media_type = match (document.media_type.as_str(), document.is_index()) {
        ("", true) => ACCEPTED[1].to_owned(),
        ("", false) => ACCEPTED[0].to_owned(),
        (media_type, _) => media_type.to_owned(),
    };
    Descriptor { media_type, digest, size: i64::try_from(bytes.len()).unwrap_or(0), ..Descriptor::default() }
}

/// Whether a registry is spoken to without TLS: those on this machine, as everywhere, and those configured.
fn is_plain(registry: &str, insecure: &[String]) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || insecure.iter().any(|i| i == registry || i == host)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_message = cause.to_string();
        if !message.contains(&cause_message) {
            message = format!("{message}: {cause_message}");
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_and_configured_registries_are_plain() {
        let insecure = vec!["10.0.0.5:5000".to_owned(), "reg.test".to_owned()];
        for plain in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "10.0.0.5:5000", "reg.test:80"] {
            assert!(is_plain(plain, &insecure), "{plain}");
        }
        for secure in ["docker.io", "10.0.0.5:5001", "reg.example"] {
            assert!(!is_plain(secure, &insecure), "{secure}");
        }
    }
}
