//! Keeps the volumes that are made of objects as the objects are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio_stream::wrappers::WatchStream;

use super::super::atomic::{self, FileEntry, Files};
use super::super::certificate::{Asking, Certificate};
use super::super::objects::Handle;
use super::super::payload::{self, DEFAULT_MODE, Selection};
use super::super::token::{self, Token};
use super::super::trust::Bundles;
use super::{Inner, VolumeError, fs_group};
use crate::api::pod::{
    CertificateProjection, DownwardVolume, KeyToPath, Projected, Projection, TokenProjection, TrustProjection, Volume,
};
use crate::api::{ConfigMap, Pod, Secret};
use crate::pods::env::Facts;

/// How long to wait before a failed refresh is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Tokens are looked at again after this: the clock may have been set.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long an object may take to be known when a pod starts.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod's volumes that are made of objects.
#[derive(Default)]
pub(super) struct Refresh(Vec<Kept>);

struct Kept {
    path: PathBuf,
    sources: Vec<Source>,
    written: Files,
}

/// Where some of a volume's files come from.
enum Source {
    ConfigMap {
        handle: Arc<Handle<ConfigMap>>,
        name: String,
        items: Vec<KeyToPath>,
        mode: u32,
        optional: bool,
    },
    Secret {
        handle: Arc<Handle<Secret>>,
        name: String,
        items: Vec<KeyToPath>,
        mode: u32,
        optional: bool,
    },
    Downward {
        volume: DownwardVolume,
        mode: u32,
    },
    Token {
        projection: TokenProjection,
        mode: u32,
        token: Option<Token>,
    },
    Trust {
        bundles: Bundles,
        projection: TrustProjection,
        mode: u32,
    },
    Certificate {
        state: Arc<Mutex<Certificate>>,
        look_at: Option<Timestamp>,
        projection: CertificateProjection,
        mode: u32,
    },
}

impl Refresh {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a volume and writes its files for the first time.
    pub(super) async fn add(
        &mut self,
        inner: &Inner,
        pod: &Pod,
        volume: &Volume,
        path: &Path,
    ) -> Result<(), VolumeError> {
        let mut kept = Kept { path: path.to_owned(), sources: sources(inner, pod, volume)?, written: Files::new() };
        let first = kept.refresh(inner, pod, true);
        tokio::time::timeout(PATIENCE, first)
            .await
            .map_err(|_| VolumeError("timed out waiting for what it is made of".to_owned()))??;
        self.0.push(kept);
        Ok(())
    }
}

/// Refreshes a pod's volumes until it is aborted.
pub(super) async fn keep(inner: Arc<Inner>, mut refresh: Refresh, mut pod: watch::Receiver<Arc<Pod>>) {
    let mut changes: SelectAll<BoxStream<'static, ()>> = SelectAll::new();
    for source in refresh.0.iter().flat_map(|k| &k.sources) {
        match source {
            Source::ConfigMap { handle, .. } => {
                changes.push(WatchStream::from_changes(handle.state.clone()).map(drop).boxed());
            }
            Source::Secret { handle, .. } => {
                changes.push(WatchStream::from_changes(handle.state.clone()).map(drop).boxed());
            }
            Source::Trust { bundles, .. } => {
                changes.push(WatchStream::from_changes(bundles.state.clone()).map(drop).boxed());
            }
            Source::Downward { .. } | Source::Token { .. } | Source::Certificate { .. } => {}
        }
    }
    let mut failed = false;
    loop {
        let renew_at = refresh.0.iter().flat_map(|k| &k.sources).filter_map(Source::renew_at).min();
        let now = inner.clock.now();
        let mut wait =
            renew_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).min(LONGEST_WAIT));
        if failed {
            wait = Some(wait.map_or(RETRY, |w| w.max(Duration::from_secs(1)).min(RETRY)));
        }
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = pod.changed() => if changed.is_err() { return },
            Some(()) = changes.next() => {}
            () = timer => {}
        }
        let current = Arc::clone(&pod.borrow_and_update());
        failed = false;
        for kept in &mut refresh.0 {
            if let Err(error) = kept.refresh(&inner, &current, false).await {
                tracing::warn!(path = %kept.path.display(), %error, "a volume's files are not up to date");
                failed = true;
            }
        }
    }
}

impl Kept {
    /// Writes the files if they have changed. What has vanished since the `first` time keeps its last state, as
    /// upstream.
    async fn refresh(&mut self, inner: &Inner, pod: &Pod, first: bool) -> Result<(), VolumeError> {
        let mut files = Files::new();
        for source in &mut self.sources {
            source.collect(inner, pod, &mut files).await?;
        }
        if files == self.written && !first {
            return Ok(());
        }
        atomic::write(&self.path, &files, fs_group(pod), &inner.clock, &inner.random)
            .map_err(|e| VolumeError(format!("cannot write {}: {e}", self.path.display())))?;
        self.written = files;
        Ok(())
    }
}

impl Source {
    fn renew_at(&self) -> Option<Timestamp> {
        match self {
            Self::Token { token: Some(token), .. } => Some(token.renew_at),
            Self::Certificate { look_at, .. } => *look_at,
            _ => None,
        }
    }

    async fn collect(&mut self, inner: &Inner, pod: &Pod, files: &mut Files) -> Result<(), VolumeError> {
        match self {
            Self::ConfigMap { handle, name, items, mode, optional } => {
                let with = Selection { kind: "configmap", name, items, mode: *mode, optional: *optional };
                payload::config_map(files, &with, handle.get().await.as_deref())
            }
            Self::Secret { handle, name, items, mode, optional } => {
                let with = Selection { kind: "secret", name, items, mode: *mode, optional: *optional };
                payload::secret(files, &with, handle.get().await.as_deref())
            }
            Self::Downward { volume, mode } => {
                let addresses = pod.status.pod_ips.iter().filter_map(|a| a.ip.parse().ok()).collect();
                let facts = Facts { addresses, ..inner.config.facts.clone() };
                payload::downward(files, pod, volume, *mode, &facts)
            }
            Self::Token { projection, mode, token } => {
                let now = inner.clock.now();
                let text = match token {
                    Some(token) if token.renew_at > now => token.text.clone(),
                    _ => {
                        let new = token::request(&inner.rest, pod, projection, now).await?;
                        token.insert(new).text.clone()
                    }
                };
                files.insert(projection.path.clone(), FileEntry { bytes: text.into_bytes(), mode: *mode });
                Ok(())
            }
            Self::Certificate { state, look_at, projection, mode } => {
                let Inner { rest, clock, random, .. } = inner;
                let mut certificate = state.lock().await;
                let collected =
                    certificate.collect(&Asking { rest, pod, projection, clock, random }, *mode, files).await;
                *look_at = certificate.look_at();
                collected
            }
            Self::Trust { bundles, projection, mode } => {
                let bytes = bundles.anchors(projection).await?;
                files.insert(projection.path.clone(), FileEntry { bytes, mode: *mode });
                Ok(())
            }
        }
    }
}

fn sources(inner: &Inner, pod: &Pod, volume: &Volume) -> Result<Vec<Source>, VolumeError> {
    let namespace = &pod.metadata.namespace;
    if let Some(map) = &volume.config_map {
        return Ok(vec![Source::ConfigMap {
            handle: inner.objects.config_map(namespace, &map.name),
            name: map.name.clone(),
            items: map.items.clone(),
            mode: map.default_mode.unwrap_or(DEFAULT_MODE),
            optional: map.optional,
        }]);
    }
    if let Some(secret) = &volume.secret {
        return Ok(vec![Source::Secret {
            handle: inner.objects.secret(namespace, &secret.secret_name),
            name: secret.secret_name.clone(),
            items: secret.items.clone(),
            mode: secret.default_mode.unwrap_or(DEFAULT_MODE),
            optional: secret.optional,
        }]);
    }
    if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(DEFAULT_MODE);
        return Ok(vec![Source::Downward { volume: downward.clone(), mode }]);
    }
    match &volume.projected {
        Some(projected) => {
            let all = projected.sources.iter().enumerate();
            all.map(|(index, source)| projection(inner, pod, (volume, index), projected, source)).collect()
        }
        None => Ok(Vec::new()),
    }
}

fn projection(
    inner: &Inner,
    pod: &Pod,
    (volume, index): (&Volume, usize),
    projected: &Projected,
    source: &Projection,
) -> Result<Source, VolumeError> {
    let namespace = &pod.metadata.namespace;
    let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
    if let Some(map) = &source.config_map {
        return Ok(Source::ConfigMap {
            handle: inner.objects.config_map(namespace, &map.name),
            name: map.name.clone(),
            items: map.items.clone(),
            mode,
            optional: map.optional,
        });
    }
    if let Some(secret) = &source.secret {
        return Ok(Source::Secret {
            handle: inner.objects.secret(namespace, &secret.name),
            name: secret.name.clone(),
            items: secret.items.clone(),
            mode,
            optional: secret.optional,
        });
    }
    if let Some(downward) = &source.downward_api {
        return Ok(Source::Downward { volume: downward.clone(), mode });
    }
    if let Some(projection) = &source.service_account_token {
        return Ok(Source::Token { projection: projection.clone(), mode, token: None });
    }
    if let Some(projection) = &source.cluster_trust_bundle {
        let bundles = Bundles::of(projection, inner.rest.clone(), inner.random.clone());
        return Ok(Source::Trust { bundles, projection: projection.clone(), mode });
    }
    if let Some(projection) = &source.pod_certificate {
        // A pod whose volumes are tried again waits for the request that it has made.
        let state = inner.certificate(&pod.metadata.uid, &volume.name, index);
        return Ok(Source::Certificate { state, look_at: None, projection: projection.clone(), mode });
    }
    let kinds: Vec<&str> = source.other.keys().map(String::as_str).collect();
    Err(VolumeError(format!("this node has no projection of {}", kinds.join(", "))))
}
