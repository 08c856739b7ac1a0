//! Imports archives: OCI layouts (image-layout.md) and `docker save`'s, plain or gzipped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::content::{self, Lease};
use super::manifest::{Descriptor, Document, digest, hex_digest};
use super::reference::ImageName;
use super::store::Inner;
use crate::runtime::RuntimeError;

/// The unpacked archive.
struct Unpacked {
    folder: tempfile::TempDir,
}

#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// Imports the images of an archive; gives their names.
pub(super) async fn import(inner: &Inner, archive: &Path, fallback: Option<&str>) -> Result<Vec<String>, RuntimeError> {
    let path = archive.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&path))
        .await
        .map_err(|e| RuntimeError::Failed(e.to_string()))?
        .map_err(|e| RuntimeError::Invalid(format!("cannot read the archive {}: {e}", archive.display())))?;
    let lease = Lease::take(&inner.client, &inner.clock, &inner.random).await?;
    let result = if unpacked.path("index.json").exists() {
        import_oci(inner, &lease, &unpacked, fallback).await
    } else if unpacked.path("manifest.json").exists() {
        import_docker(inner, &lease, &unpacked, fallback).await
    } else {
        Err(RuntimeError::Invalid(format!(
            "{} is no image archive: it has neither index.json (OCI) nor manifest.json (docker save)",
            archive.display()
        )))
    };
    lease.end().await;
    result
}

impl Unpacked {
    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// The file of a blob.
    fn blob(&self, digest: &str) -> Result<PathBuf, RuntimeError> {
        let (kind, hex) = digest.split_once(':').unwrap_or(("", ""));
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if plain(kind) && plain(hex) {
            Ok(self.path("blobs").join(kind).join(hex))
        } else {
            Err(RuntimeError::Invalid(format!("the archive names a blob {digest:?}")))
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, RuntimeError> {
        fs::read(path).map_err(|e| RuntimeError::Invalid(format!("the archive lacks a file: {}: {e}", path.display())))
    }

    /// A file that a document in the archive names: one inside of it.
    fn named(&self, name: &str) -> Result<PathBuf, RuntimeError> {
        let path = self.path(name);
        let real = path.canonicalize().ok().filter(|p| p.starts_with(self.folder.path()));
        real.ok_or_else(|| RuntimeError::Invalid(format!("the archive lacks {name}")))
    }
}

fn unpack(path: &Path) -> io::Result<Unpacked> {
    let mut file = File::open(path)?;
    let mut magic = [0_u8; 2];
    let read = file.read(&mut magic)?;
    file.rewind()?;
    let folder = tempfile::Builder::new().prefix("xebec-image-").tempdir()?;
    let root = folder.path().canonicalize()?;
    // `unpack` keeps within its folder whatever the archive says.
    if read == 2 && magic == [0x1f, 0x8b] {
        tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(&root)?;
    } else {
        tar::Archive::new(file).unpack(&root)?;
    }
    Ok(Unpacked { folder })
}

async fn import_oci(
    inner: &Inner,
    lease: &Lease,
    unpacked: &Unpacked,
    fallback: Option<&str>,
) -> Result<Vec<String>, RuntimeError> {
    let index = Document::parse(&unpacked.read(&unpacked.path("index.json"))?)?;
    let mut names = Vec::new();
    for target in &index.manifests {
        let name = image_name(&target.annotations, fallback)?;
        write_tree(inner, lease, unpacked, target).await?;
        let plain = Descriptor { annotations: BTreeMap::new(), platform: None, ..target.clone() };
        inner.settle(lease, &name, &plain).await?;
        names.push(name);
    }
    if names.is_empty() {
        return Err(RuntimeError::Invalid("the archive's index.json names no image".to_owned()));
    }
    Ok(names)
}

/// The name that an index gives to an image.
fn image_name(annotations: &BTreeMap<String, String>, fallback: Option<&str>) -> Result<String, RuntimeError> {
    let full = annotations.get("io.containerd.image.name");
    let short = annotations.get("org.opencontainers.image.ref.name");
    let name = match (full, short, fallback) {
        (Some(name), ..) => name.clone(),
        // Either a whole name, or a tag only.
        (None, Some(name), _) if name.contains(['/', ':']) => name.clone(),
        (None, Some(tag), Some(fallback)) if !fallback.contains(':') => format!("{fallback}:{tag}"),
        (None, _, Some(fallback)) => fallback.to_owned(),
        (None, _, None) => {
            return Err(RuntimeError::Invalid(
                "the archive does not name its image: its index.json has no annotation io.containerd.image.name"
                    .to_owned(),
            ));
        }
    };
    Ok(ImageName::parse(&name).map_err(|e| RuntimeError::Invalid(format!("image name \"{name}\": {e}")))?.to_string())
}

/// Writes a manifest (or index) and everything that this machine needs of what it refers to.
async fn write_tree(
    inner: &Inner,
    lease: &Lease,
    unpacked: &Unpacked,
    target: &Descriptor,
) -> Result<(), RuntimeError> {
    let bytes = unpacked.read(&unpacked.blob(&target.digest)?)?;
    let document = Document::parse(&bytes)?;
    content::write_bytes(&inner.client, lease, target, bytes).await?;
    let manifest = if document.is_index() {
        let chosen = document.for_this_machine()?;
        let bytes = unpacked.read(&unpacked.blob(&chosen.digest)?)?;
        let manifest = Document::parse(&bytes)?;
        content::write_bytes(&inner.client, lease, chosen, bytes).await?;
        manifest
    } else {
        document
    };
    for blob in manifest.layers.iter().chain(&manifest.config) {
        write_file(inner, lease, blob, &unpacked.blob(&blob.digest)?).await?;
    }
    Ok(())
}

async fn write_file(inner: &Inner, lease: &Lease, blob: &Descriptor, path: &Path) -> Result<(), RuntimeError> {
    if content::has(&inner.client, &blob.digest).await? {
        return Ok(());
    }
    let failed = |e: io::Error| RuntimeError::Invalid(format!("the archive lacks blob {}: {e}", blob.digest));
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let source = async_stream::stream! {
        loop {
            let mut piece = Vec::with_capacity(1 << 20);
            match (&mut file).take(1 << 20).read_to_end(&mut piece).await {
                Ok(0) => break,
                Ok(_) => yield Ok(Bytes::from(piece)),
                Err(error) => {
                    yield Err(RuntimeError::Failed(format!("cannot read the archive: {error}")));
                    break;
                }
            }
        }
    };
    content::write(&inner.client, lease, blob, source).await
}

async fn import_docker(
    inner: &Inner,
    lease: &Lease,
    unpacked: &Unpacked,
    fallback: Option<&str>,
) -> Result<Vec<String>, RuntimeError> {
    let bytes = unpacked.read(&unpacked.path("manifest.json"))?;
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes)
        .map_err(|e| RuntimeError::Invalid(format!("the archive's manifest.json is none: {e}")))?;
    let mut names = Vec::new();
    for image in images {
        let config_bytes = unpacked.read(&unpacked.named(&image.config)?)?;
        let config = Descriptor {
            media_type: "application/vnd.docker.container.image.v1+json".to_owned(),
            digest: digest(&config_bytes),
            size: i64::try_from(config_bytes.len()).unwrap_or(0),
            ..Descriptor::default()
        };
        content::write_bytes(&inner.client, lease, &config, config_bytes).await?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let path = unpacked.named(name)?;
            let layer = describe_layer(path.clone()).await?;
            write_file(inner, lease, &layer, &path).await?;
            layers.push(layer);
        }
        let media_type = "application/vnd.docker.distribution.manifest.v2+json".to_owned();
        let manifest = Document {
            schema_version: 2,
            media_type: media_type.clone(),
            config: Some(config),
            layers,
            manifests: Vec::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| RuntimeError::Failed(e.to_string()))?;
        let target = Descriptor {
            media_type,
            digest: digest(&bytes),
            size: i64::try_from(bytes.len()).unwrap_or(0),
            ..Descriptor::default()
        };
        content::write_bytes(&inner.client, lease, &target, bytes).await?;
        let mut tags = image.tags.unwrap_or_default();
        if tags.is_empty() {
            tags.extend(fallback.map(str::to_owned));
        }
        if tags.is_empty() {
            return Err(RuntimeError::Invalid("the archive does not name its image: RepoTags is empty".to_owned()));
        }
        for tag in tags {
            let name =
                ImageName::parse(&tag).map_err(|e| RuntimeError::Invalid(format!("image name \"{tag}\": {e}")))?;
            inner.settle(lease, &name.to_string(), &target).await?;
            names.push(name.to_string());
        }
    }
    Ok(names)
}

/// A layer of a docker archive: named by nothing but its place.
async fn describe_layer(path: PathBuf) -> Result<Descriptor, RuntimeError> {
    let described = tokio::task::spawn_blocking(move || -> io::Result<Descriptor> {
        let mut file = File::open(&path)?;
        let mut sum = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let (mut size, mut gzipped) = (0_i64, false);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if size == 0 {
                gzipped = buffer.starts_with(&[0x1f, 0x8b]);
            }
            sum.update(&buffer[..read]);
            size += i64::try_from(read).unwrap_or(0);
        }
        let suffix = if gzipped { ".gzip" } else { "" };
        Ok(Descriptor {
            media_type: format!("application/vnd.docker.image.rootfs.diff.tar{suffix}"),
            digest: hex_digest(sum.finalize().as_slice()),
            size,
            ..Descriptor::default()
        })
    });
    let described = described.await.map_err(|e| RuntimeError::Failed(e.to_string()))?;
    described.map_err(|e| RuntimeError::Invalid(format!("cannot read a layer of the archive: {e}")))
}
