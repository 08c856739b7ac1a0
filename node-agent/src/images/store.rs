//! The images in containerd, by name.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::tonic::Code;
use containerd_client::types;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use xebec_clock::{Clock, Random};

use super::content::{self, Lease};
use super::manifest::{ConfigBlob, Descriptor, Document, chain_ids};
use super::pull;
use super::reference::ImageName;
use crate::runtime::containerd::SNAPSHOTTER;
use crate::runtime::containerd::client::{Client, request};
use crate::runtime::containerd::oci::ImageConfig;
use crate::runtime::{Credentials, Images, Layers, LocalImage, RuntimeError};

/// What a container needs to know of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// For the process.
    pub config: ImageConfig,
    /// The snapshot below its root file system.
    pub chain_id: String,
    /// Bytes of manifest, configuration and layers.
    pub size_bytes: u64,
}

type Pull = Shared<BoxFuture<'static, Result<LocalImage, RuntimeError>>>;

/// The images in containerd.
pub struct ImageStore {
    inner: Arc<Inner>,
    /// Pulls under way, by name.
    pulls: Mutex<BTreeMap<String, Pull>>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) insecure: Vec<String>,
    /// By the digest of manifest or index.
    infos: Mutex<BTreeMap<String, Arc<ImageInfo>>>,
    /// Bytes of those of which no more had to be known.
    sizes: Mutex<BTreeMap<String, u64>>,
    /// What names stood for last.
    names: Mutex<BTreeMap<String, Arc<ImageInfo>>>,
}

/// How many images' facts are remembered.
const REMEMBERED_MAX: usize = 512;

impl ImageStore {
    /// In the containerd of `client`. `insecure` registries (`host:port`) are spoken to in plain HTTP.
    pub fn new(client: Client, insecure: Vec<String>, clock: Clock, random: Random) -> Self {
        let inner = Inner {
            client,
            clock,
            random,
            insecure,
            infos: Mutex::default(),
            sizes: Mutex::default(),
            names: Mutex::default(),
        };
        Self { inner: Arc::new(inner), pulls: Mutex::default() }
    }

    /// What a container of the image `name` (normalised) needs to know.
    pub async fn config(&self, name: &str) -> Result<Arc<ImageInfo>, RuntimeError> {
        let known = self.inner.names.lock().get(name).cloned();
        if let Some(info) = known {
            return Ok(info);
        }
        match self.inner.find(name).await? {
            Some((_, info)) => Ok(info),
            None => Err(RuntimeError::NotFound(format!("image \"{name}\""))),
        }
    }

    /// Takes the images of an archive (`docker save`'s or OCI's) into the store; gives their names. `fallback` names an
    /// image that the archive does not.
    pub async fn import(&self, archive: &std::path::Path, fallback: Option<&str>) -> Result<Vec<String>, RuntimeError> {
        super::archive::import(&self.inner, archive, fallback).await
    }
}

impl Inner {
    /// The image of that (normalised) name, unpacked.
    async fn find(&self, name: &str) -> Result<Option<(LocalImage, Arc<ImageInfo>)>, RuntimeError> {
        let get = GetImageRequest { name: name.to_owned() };
        let image = match self.client.images().get(request(get)).await {
            Ok(response) => response.into_inner().image,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(status.into()),
        };
        let Some(target) = image.and_then(|i| i.target) else {
            self.names.lock().remove(name);
            return Ok(None);
        };
        let target = Descriptor {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size,
            ..Descriptor::default()
        };
        let info = match self.info(&target).await {
            Ok(info) => info,
            // A name whose content was collected is no image.
            Err(RuntimeError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = self.names.lock();
        if names.len() >= REMEMBERED_MAX {
            names.clear();
        }
        names.insert(name.to_owned(), Arc::clone(&info));
        drop(names);
        Ok(Some((local(name, &target.digest, info.size_bytes), info)))
    }

    /// The image as it was found, though its name may stand for another one by now.
    async fn of_digest(&self, image: &LocalImage) -> Result<Arc<ImageInfo>, RuntimeError> {
        let known = self.infos.lock().get(&image.digest).cloned();
        if let Some(info) = known {
            return Ok(info);
        }
        match self.find(&image.name).await? {
            Some((found, info)) if found.digest == image.digest => Ok(info),
            _ => Err(RuntimeError::NotFound(format!("image \"{}\"", image.id))),
        }
    }

    /// The bytes of an image, whether or not it is unpacked; none are known of one whose content is not all there.
    async fn size(&self, digest: &str, media_type: &str, size: i64) -> u64 {
        if let Some(info) = self.infos.lock().get(digest) {
            return info.size_bytes;
        }
        if let Some(bytes) = self.sizes.lock().get(digest) {
            return *bytes;
        }
        let (digest, media_type) = (digest.to_owned(), media_type.to_owned());
        let target = Descriptor { media_type, digest: digest.clone(), size, ..Descriptor::default() };
        let Ok((descriptor, manifest)) = self.manifest(&target).await else { return 0 };
        let bytes = size_of(&descriptor, &manifest);
        let mut sizes = self.sizes.lock();
        if sizes.len() >= REMEMBERED_MAX {
            sizes.clear();
        }
        sizes.insert(digest, bytes);
        bytes
    }

    /// Reads an image's documents, and unpacks it if it is not.
    async fn info(&self, target: &Descriptor) -> Result<Arc<ImageInfo>, RuntimeError> {
        if let Some(info) = self.infos.lock().get(&target.digest) {
            return Ok(Arc::clone(info));
        }
        let (descriptor, manifest) = self.manifest(target).await?;
        let config = manifest.config.clone().unwrap_or_default();
        let blob: ConfigBlob = serde_json::from_slice(&content::read(&self.client, &config).await?)
            .map_err(|e| RuntimeError::Invalid(format!("the image's configuration is none: {e}")))?;
        let chain_id = chain_ids(&blob.rootfs.diff_ids).pop().unwrap_or_default();
        if !chain_id.is_empty() && !content::has_snapshot(&self.client, &chain_id).await? {
            let lease = Lease::take(&self.client, &self.clock, &self.random).await?;
            let unpacked = self.unpack(&lease, &manifest, &config, &blob).await;
            lease.end().await;
            unpacked?;
        }
        let info = Arc::new(ImageInfo {
            config: blob.config.unwrap_or_default(),
            chain_id,
            size_bytes: size_of(&descriptor, &manifest),
        });
        let mut infos = self.infos.lock();
        if infos.len() >= REMEMBERED_MAX {
            infos.clear();
        }
        infos.insert(target.digest.clone(), Arc::clone(&info));
        Ok(info)
    }

    /// The manifest for this machine.
    pub(super) async fn manifest(&self, target: &Descriptor) -> Result<(Descriptor, Document), RuntimeError> {
        let document = Document::parse(&content::read(&self.client, target).await?)?;
        if !document.is_index() {
            return Ok((target.clone(), document));
        }
        let descriptor = document.for_this_machine()?.clone();
        let manifest = Document::parse(&content::read(&self.client, &descriptor).await?)?;
        Ok((descriptor, manifest))
    }

    async fn unpack(
        &self,
        lease: &Lease,
        manifest: &Document,
        config: &Descriptor,
        blob: &ConfigBlob,
    ) -> Result<String, RuntimeError> {
        let diff_ids = &blob.rootfs.diff_ids;
        let chain_id = content::unpack(&self.client, lease, &self.random, &manifest.layers, diff_ids).await?;
        let label = (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), chain_id.clone());
        content::label(&self.client, &config.digest, [label].into()).await?;
        Ok(chain_id)
    }

    /// Gives an image, whose blobs are there, its name: unpacks it and keeps it from being collected.
    pub(super) async fn settle(
        &self,
        lease: &Lease,
        name: &str,
        target: &Descriptor,
    ) -> Result<LocalImage, RuntimeError> {
        let (descriptor, manifest) = self.manifest(target).await?;
        let config = manifest.config.clone().unwrap_or_default();
        let blob: ConfigBlob = serde_json::from_slice(&content::read(&self.client, &config).await?)
            .map_err(|e| RuntimeError::Invalid(format!("the image's configuration is none: {e}")))?;
        self.unpack(lease, &manifest, &config, &blob).await?;
        let mut labels = HashMap::new();
        labels.insert("containerd.io/gc.ref.content.config".to_owned(), config.digest.clone());
        for (index, layer) in manifest.layers.iter().enumerate() {
            labels.insert(format!("containerd.io/gc.ref.content.l.{index}"), layer.digest.clone());
        }
        content::label(&self.client, &descriptor.digest, labels).await?;
        if descriptor.digest != target.digest {
            let label = ("containerd.io/gc.ref.content.m.0".to_owned(), descriptor.digest.clone());
            content::label(&self.client, &target.digest, [label].into()).await?;
        }
        self.name(name, target).await?;
        match self.find(name).await? {
            Some((image, _)) => Ok(image),
            None => Err(RuntimeError::Failed(format!("image {name} vanished while it was stored"))),
        }
    }

    async fn name(&self, name: &str, target: &Descriptor) -> Result<(), RuntimeError> {
        let image = Image {
            name: name.to_owned(),
            labels: [("io.cri-containerd.image".to_owned(), "managed".to_owned())].into(),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: target.size,
                annotations: HashMap::new(),
            }),
            ..Image::default()
        };
        let create = CreateImageRequest { image: Some(image.clone()), ..CreateImageRequest::default() };
        match self.client.images().create(request(create)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..UpdateImageRequest::default() };
                self.client.images().update(request(update)).await?;
                Ok(())
            }
            Err(status) => Err(status.into()),
        }
    }
}

/// Bytes of an image's manifest, configuration and layers.
fn size_of(descriptor: &Descriptor, manifest: &Document) -> u64 {
    let blobs = manifest.layers.iter().chain(&manifest.config).map(|blob| blob.size);
    u64::try_from(blobs.sum::<i64>().saturating_add(descriptor.size)).unwrap_or(0)
}

fn local(name: &str, digest: &str, size_bytes: u64) -> LocalImage {
    let repository = ImageName::parse(name).map(|n| n.name()).unwrap_or_else(|_| name.to_owned());
    LocalImage { name: name.to_owned(), id: format!("{repository}@{digest}"), digest: digest.to_owned(), size_bytes }
}

fn normalise(name: &str) -> Result<ImageName, RuntimeError> {
    ImageName::parse(name).map_err(|e| RuntimeError::Invalid(format!("image name \"{name}\": {e}")))
}

#[async_trait]
impl Images for ImageStore {
    async fn find(&self, name: &str) -> Result<Option<LocalImage>, RuntimeError> {
        let name = normalise(name)?.to_string();
        Ok(self.inner.find(&name).await?.map(|(image, _)| image))
    }

    async fn pull(&self, name: &str, credentials: &[Credentials]) -> Result<LocalImage, RuntimeError> {
        let image = normalise(name)?;
        let key = image.to_string();
        let pull = {
            let mut pulls = self.pulls.lock();
            match pulls.get(&key) {
                Some(pull) => pull.clone(),
                None => {
                    let (inner, credentials) = (Arc::clone(&self.inner), credentials.to_vec());
                    // A task of its own: it goes on when the pod that asked first is deleted.
                    let task = tokio::spawn(async move { pull::pull(&inner, &image, &credentials).await });
                    let pull = async move {
                        task.await.unwrap_or_else(|e| Err(RuntimeError::Failed(format!("the pull was lost: {e}"))))
                    };
                    let pull = pull.boxed().shared();
                    pulls.insert(key.clone(), pull.clone());
                    pull
                }
            }
        };
        let result = pull.clone().await;
        let mut pulls = self.pulls.lock();
        if pulls.get(&key).is_some_and(|p| p.ptr_eq(&pull)) {
            pulls.remove(&key);
        }
        result
    }

    async fn images(&self) -> Result<Vec<(Vec<String>, u64)>, RuntimeError> {
        let list = self.inner.client.images().list(request(ListImagesRequest::default())).await?.into_inner().images;
        let mut by_digest: BTreeMap<String, (Vec<String>, u64)> = BTreeMap::new();
        for image in list {
            let Some(target) = image.target else { continue };
            // CRI keeps entries under the bare digest beside the names.
            if image.name.starts_with("sha256:") {
                continue;
            }
            let size = self.inner.size(&target.digest, &target.media_type, target.size).await;
            let entry = by_digest.entry(target.digest.clone()).or_default();
            let id = local(&image.name, &target.digest, 0).id;
            if !entry.0.contains(&id) {
                entry.0.insert(0, id);
            }
            entry.0.push(image.name);
            entry.1 = size;
        }
        let mut images: Vec<_> = by_digest.into_values().collect();
        images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(images)
    }

    async fn remove(&self, digest: &str) -> Result<(), RuntimeError> {
        let filters = vec![format!("target.digest=={digest}")];
        let named = self.inner.client.images().list(request(ListImagesRequest { filters })).await?.into_inner().images;
        // The last one waits for what is not needed any more to be gone.
        let last = named.len().saturating_sub(1);
        for (index, image) in named.into_iter().enumerate() {
            self.inner.names.lock().remove(&image.name);
            let delete = DeleteImageRequest { name: image.name, sync: index == last, ..DeleteImageRequest::default() };
            match self.inner.client.images().delete(request(delete)).await {
                Err(status) if status.code() != Code::NotFound => return Err(status.into()),
                _ => {}
            }
        }
        self.inner.infos.lock().remove(digest);
        Ok(())
    }

    async fn root(&self) -> Result<PathBuf, RuntimeError> {
        content::snapshotter_root(&self.inner.client).await
    }

    async fn hold(&self, key: &str, image: &LocalImage) -> Result<Vec<Layers>, RuntimeError> {
        let info = self.inner.of_digest(image).await?;
        content::view(&self.inner.client, &self.inner.clock, key, &info.chain_id).await
    }

    async fn release(&self, key: &str) -> Result<(), RuntimeError> {
        content::remove_snapshot(&self.inner.client, key).await
    }
}
