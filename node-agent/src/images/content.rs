//! Blobs and snapshots in containerd.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, CreateRequest, DeleteRequest, Info, InfoRequest, PluginsRequest, ReadContentRequest, UpdateRequest,
    WriteAction, WriteContentRequest,
};
use containerd_client::tonic::Code;
use containerd_client::types;
use futures::{Stream, StreamExt};
use jiff::SignedDuration;
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xebec_clock::{Clock, Random};

use super::manifest::{Descriptor, chain_ids};
use crate::runtime::containerd::SNAPSHOTTER;
use crate::runtime::containerd::client::{Client, leased, request};
use crate::runtime::{DiskUsage, Layers, RuntimeError};

/// Documents (manifests, configurations) are no larger than this.
const DOCUMENT_BYTES_MAX: i64 = 8 << 20;
/// Blobs are sent in pieces of at most this.
const PIECE_BYTES: usize = 1 << 20;
/// What is not finished after this long may be collected.
const LEASE_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// Keeps what is written under it from being collected, until it is ended.
pub struct Lease {
    client: Client,
    /// Its id.
    pub id: String,
}

impl Lease {
    /// Takes one.
    pub async fn take(client: &Client, clock: &Clock, random: &Random) -> Result<Self, RuntimeError> {
        let id = format!("xebec-{:016x}", random.next_u64());
        let expire = clock.now_seconds().checked_add(LEASE_LIFE).unwrap_or(jiff::Timestamp::MAX);
        let labels = [("containerd.io/gc.expire".to_owned(), expire.to_string())].into();
        client.leases().create(request(CreateRequest { id: id.clone(), labels })).await?;
        Ok(Self { client: client.clone(), id })
    }

    /// Ends it.
    pub async fn end(self) {
        let delete = DeleteRequest { id: self.id.clone(), sync: false };
        if let Err(status) = self.client.leases().delete(request(delete)).await {
            tracing::debug!(lease = %self.id, status = %status.message(), "lease left to expire");
        }
    }
}

/// Whether a blob is there.
pub async fn has(client: &Client, digest: &str) -> Result<bool, RuntimeError> {
    match client.content().info(request(InfoRequest { digest: digest.to_owned() })).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// Reads a document.
pub async fn read(client: &Client, descriptor: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
    if descriptor.size > DOCUMENT_BYTES_MAX {
        return Err(RuntimeError::Invalid(format!("{} is too large for a document", descriptor.digest)));
    }
    let read = ReadContentRequest { digest: descriptor.digest.clone(), offset: 0, size: 0 };
    let mut stream = client.content().read(request(read)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await? {
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

/// Writes a blob from what `source` gives; containerd checks its digest. One that is there is not written again.
pub async fn write(
    client: &Client,
    lease: &Lease,
    descriptor: &Descriptor,
    source: impl Stream<Item = Result<Bytes, RuntimeError>> + Send,
) -> Result<(), RuntimeError> {
    let (tx, rx) = mpsc::channel::<WriteContentRequest>(4);
    let message = leased(ReceiverStream::new(rx), &lease.id)?;
    let reference = format!("xebec-{}-{}", lease.id, descriptor.digest);
    let base = WriteContentRequest {
        r#ref: reference,
        total: descriptor.size,
        expected: descriptor.digest.clone(),
        ..WriteContentRequest::default()
    };
    let feed = async {
        let mut source = std::pin::pin!(source);
        let mut offset = 0_i64;
        while let Some(bytes) = source.next().await {
            for piece in bytes?.chunks(PIECE_BYTES) {
                let write = WriteContentRequest {
                    action: WriteAction::Write.into(),
                    offset,
                    data: piece.to_vec(),
                    ..base.clone()
                };
                offset += i64::try_from(piece.len()).unwrap_or(0);
                if tx.send(write).await.is_err() {
                    return Ok(());
                }
            }
        }
        let commit = WriteContentRequest { action: WriteAction::Commit.into(), offset, ..base.clone() };
        // A writer that has stopped says why in its answer.
        drop(tx.send(commit).await);
        drop(tx);
        Ok::<(), RuntimeError>(())
    };
    let answers = async {
        let mut content = client.content();
        let mut answers = content.write(message).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<(), containerd_client::tonic::Status>(())
    };
    let (fed, answered) = tokio::join!(feed, answers);
    match answered {
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        Err(status) => {
            fed?;
            Err(status.into())
        }
        Ok(()) => fed,
    }
}

/// Writes a document.
pub async fn write_bytes(
    client: &Client,
    lease: &Lease,
    descriptor: &Descriptor,
    bytes: Vec<u8>,
) -> Result<(), RuntimeError> {
    write(client, lease, descriptor, futures::stream::iter([Ok(Bytes::from(bytes))])).await
}

/// Labels a blob: what it refers to is kept as long as it is.
pub async fn label(client: &Client, digest: &str, labels: HashMap<String, String>) -> Result<(), RuntimeError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
    let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
    client.content().update(request(update)).await?;
    Ok(())
}

/// Whether a snapshot is there.
pub async fn has_snapshot(client: &Client, key: &str) -> Result<bool, RuntimeError> {
    let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    match client.snapshots().stat(request(stat)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// A snapshot `key` of what is in `parent`, to be read only; gives how to mount it. One that is there stays as it is.
pub async fn view(client: &Client, clock: &Clock, key: &str, parent: &str) -> Result<Vec<Layers>, RuntimeError> {
    // A root of its own: what is mounted must not be collected, nor what it is made of.
    let labels = [("containerd.io/gc.root".to_owned(), clock.now_seconds().to_string())].into();
    let view = ViewSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels,
    };
    let mounts = match client.snapshots().view(request(view)).await {
        Ok(response) => response.into_inner().mounts,
        Err(status) if status.code() == Code::AlreadyExists => {
            let mounts = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
            client.snapshots().mounts(request(mounts)).await?.into_inner().mounts
        }
        Err(status) => return Err(status.into()),
    };
    Ok(mounts.into_iter().map(|m| Layers { kind: m.r#type, source: m.source, options: m.options }).collect())
}

/// What is in a snapshot itself, without what it is made on.
pub async fn snapshot_usage(client: &Client, key: &str) -> Result<DiskUsage, RuntimeError> {
    let usage = UsageRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let usage = client.snapshots().usage(request(usage)).await?.into_inner();
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(DiskUsage { bytes: count(usage.size), inodes: count(usage.inodes) })
}

/// Where the snapshotter keeps its files.
pub async fn snapshotter_root(client: &Client) -> Result<PathBuf, RuntimeError> {
    let filters = vec![format!("type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}")];
    let plugins = client.introspection().plugins(request(PluginsRequest { filters })).await?.into_inner().plugins;
    let root = plugins.into_iter().find_map(|mut plugin| plugin.exports.remove("root"));
    root.map(PathBuf::from).ok_or_else(|| RuntimeError::NotFound(format!("the root of containerd's {SNAPSHOTTER}")))
}

/// Removes a snapshot. One that is not there is no error.
pub async fn remove_snapshot(client: &Client, key: &str) -> Result<(), RuntimeError> {
    let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    match client.snapshots().remove(request(remove)).await {
        Err(status) if status.code() != Code::NotFound => Err(status.into()),
        _ => Ok(()),
    }
}

/// Unpacks layers into snapshots; gives the name of the uppermost.
pub async fn unpack(
    client: &Client,
    lease: &Lease,
    random: &Random,
    layers: &[Descriptor],
    diff_ids: &[String],
) -> Result<String, RuntimeError> {
    if layers.len() != diff_ids.len() {
        return Err(RuntimeError::Invalid("the image's configuration does not fit its layers".to_owned()));
    }
    let mut parent = String::new();
    for ((layer, diff_id), name) in layers.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
        if !has_snapshot(client, &name).await? {
            unpack_layer(client, lease, random, layer, diff_id, &parent, &name).await?;
        }
        parent = name;
    }
    Ok(parent)
}

async fn unpack_layer(
    client: &Client,
    lease: &Lease,
    random: &Random,
    layer: &Descriptor,
    diff_id: &str,
    parent: &str,
    name: &str,
) -> Result<(), RuntimeError> {
    let key = format!("extract-{:016x} {name}", random.next_u64());
    let snapshotter = SNAPSHOTTER.to_owned();
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: parent.to_owned(),
        labels: HashMap::new(),
    };
    let mounts = client.snapshots().prepare(leased(prepare, &lease.id)?).await?.into_inner().mounts;
    let result = async {
        let diff = types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            annotations: HashMap::new(),
        };
        let apply = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
        let applied = client.diff().apply(leased(apply, &lease.id)?).await?.into_inner().applied;
        let applied = applied.map(|d| d.digest).unwrap_or_default();
        if applied != diff_id {
            return Err(RuntimeError::Invalid(format!("layer {} unpacks to {applied}, not {diff_id}", layer.digest)));
        }
        let commit = CommitSnapshotRequest {
            snapshotter: snapshotter.clone(),
            name: name.to_owned(),
            key: key.clone(),
            labels: HashMap::new(),
        };
        match client.snapshots().commit(leased(commit, &lease.id)?).await {
            Ok(_) => Ok(true),
            // Another pull was faster.
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status.into()),
        }
    };
    let result = result.await;
    if !matches!(result, Ok(true)) {
        drop(remove_snapshot(client, &key).await);
    }
    result.map(drop)
}
