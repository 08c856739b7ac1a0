//! Volumes, claims, classes, and what CSI drivers say.

use serde_json::Value;

use super::{AGE, NAME, column, or_unset, wide};
use crate::kinds::json::{at, has, list, text, truth};
use crate::resource::Column;

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "string", "How large it is", |o, _| amount(o, "spec.capacity").into()),
    column("Access Modes", "string", "How it may be mounted", |o, _| access_modes(o, "spec.accessModes").into()),
    column("Reclaim Policy", "string", "What becomes of it when its claim is gone", |o, _| {
        text(o, "spec.persistentVolumeReclaimPolicy").into()
    }),
    column("Status", "string", "Whether it is free or claimed", |o, _| phase(o).into()),
    column("Claim", "string", "Whose it is", |o, _| match at(o, "spec.claimRef") {
        Value::Null => "".into(),
        claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")).into(),
    }),
    column("StorageClass", "string", "Its class", |o, _| class(o).into()),
    column("VolumeAttributesClass", "string", "The class of its attributes", |o, _| {
        or_unset(text(o, "spec.volumeAttributesClassName")).into()
    }),
    column("Reason", "string", "Why it failed", |o, _| text(o, "status.reason").into()),
    AGE,
    VOLUME_MODE,
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    column("Status", "string", "Whether it has a volume", |o, _| phase(o).into()),
    column("Volume", "string", "Its volume", |o, _| text(o, "spec.volumeName").into()),
    column("Capacity", "string", "How large its volume is", |o, _| {
        if text(o, "spec.volumeName").is_empty() { String::new() } else { amount(o, "status.capacity") }.into()
    }),
    column("Access Modes", "string", "How its volume may be mounted", |o, _| {
        if text(o, "spec.volumeName").is_empty() { String::new() } else { access_modes(o, "status.accessModes") }.into()
    }),
    column("StorageClass", "string", "The class of volumes that it asks for", |o, _| class(o).into()),
    column("VolumeAttributesClass", "string", "The class of its attributes", |o, _| {
        or_unset(text(o, "spec.volumeAttributesClassName")).into()
    }),
    AGE,
    VOLUME_MODE,
];

const VOLUME_MODE: Column =
    wide("VolumeMode", "string", "Files or blocks", |o, _| or_unset(text(o, "spec.volumeMode")).into());

pub(super) const STORAGE_CLASS: &[Column] = &[
    Column { cell: |o, _| class_name(o).into(), ..NAME },
    column("Provisioner", "string", "What makes its volumes", |o, _| text(o, "provisioner").into()),
    column("ReclaimPolicy", "string", "What becomes of volumes whose claims are gone", |o, _| {
        text(o, "reclaimPolicy").into()
    }),
    column("VolumeBindingMode", "string", "When claims get their volumes", |o, _| text(o, "volumeBindingMode").into()),
    column("AllowVolumeExpansion", "string", "Whether volumes can grow", |o, _| {
        truth(o, "allowVolumeExpansion").into()
    }),
    AGE,
];

pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[NAME, column("DriverName", "string", "Whose attributes they are", |o, _| text(o, "driverName").into()), AGE];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        format: "name",
        ..column("Attacher", "string", "What attaches it", |o, _| text(o, "spec.attacher").into())
    },
    column("PV", "string", "The volume", |o, _| text(o, "spec.source.persistentVolumeName").into()),
    column("Node", "string", "The node", |o, _| text(o, "spec.nodeName").into()),
    column("Attached", "boolean", "Whether it is attached", |o, _| truth(o, "status.attached").into()),
    AGE,
];

pub(super) const CSI_NODE: &[Column] = &[
    NAME,
    column("Drivers", "integer", "How many drivers the node has", |o, _| list(o, "spec.drivers").len().into()),
    AGE,
];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", "boolean", "Whether its volumes are attached", |o, _| {
        (!has(o, "spec.attachRequired") || truth(o, "spec.attachRequired")).into()
    }),
    column("PodInfoOnMount", "boolean", "Whether it is told of the pod", |o, _| truth(o, "spec.podInfoOnMount").into()),
    column("StorageCapacity", "boolean", "Whether it says how much room there is", |o, _| {
        truth(o, "spec.storageCapacity").into()
    }),
    column("TokenRequests", "string", "The audiences of the tokens that it gets", |o, _| {
        let audiences: Vec<_> = list(o, "spec.tokenRequests").iter().map(|r| text(r, "audience")).collect();
        or_unset(&audiences.join(",")).into()
    }),
    column("RequiresRepublish", "boolean", "Whether it is called again and again", |o, _| {
        truth(o, "spec.requiresRepublish").into()
    }),
    column("Modes", "string", "Which lives its volumes have", |o, _| {
        let modes: Vec<_> = list(o, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        if modes.is_empty() { "<none>".to_owned() } else { modes.join(",") }.into()
    }),
    AGE,
];

pub(super) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    column("StorageClassName", "string", "Of which class", |o, _| text(o, "storageClassName").into()),
    column("Capacity", "string", "How much room there is", |o, _| match at(o, "capacity") {
        Value::Null => "<unset>".into(),
        amount => amount.clone(),
    }),
];

fn amount(object: &Value, of: &str) -> String {
    at(object, of).get("storage").and_then(Value::as_str).unwrap_or("0").to_owned()
}

fn phase(object: &Value) -> &str {
    if has(object, "metadata.deletionTimestamp") { "Terminating" } else { text(object, "status.phase") }
}

/// The class by the field, else by the annotation that was there before it.
fn class(object: &Value) -> &str {
    let annotation = at(object, "metadata.annotations").get("volume.beta.kubernetes.io/storage-class");
    annotation.and_then(Value::as_str).unwrap_or_else(|| text(object, "spec.storageClassName"))
}

fn class_name(class: &Value) -> String {
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| at(class, "metadata.annotations").get(key).is_some_and(|v| v == "true"));
    let name = text(class, "metadata.name");
    if is_default { format!("{name} (default)") } else { name.to_owned() }
}

/// `RWO,ROX`, in upstream's order.
fn access_modes(object: &Value, path: &str) -> String {
    let given = list(object, path);
    let all =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short: Vec<_> =
        all.iter().filter(|(mode, _)| given.iter().any(|g| g == mode)).map(|(_, short)| *short).collect();
    short.join(",")
}
