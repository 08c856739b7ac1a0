//! Who owns whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;

use super::{FOREGROUND, ORPHAN, Owner};
use crate::runtime::Keys;
use crate::runtime::informer::Feed;
use crate::runtime::kind::Kind;
use crate::runtime::meta::{Key, Meta, OwnerReference, null_default};

/// Any object: what the collector needs of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Metadata, without what the collector has no use for.
    #[serde(deserialize_with = "lean")]
    pub metadata: Meta,
}

/// Reads metadata without labels and annotations, which are most of it.
fn lean<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Lean {
        name: String,
        #[serde(deserialize_with = "null_default")]
        namespace: String,
        uid: String,
        resource_version: String,
        deletion_timestamp: Option<jiff::Timestamp>,
        #[serde(deserialize_with = "null_default")]
        finalizers: Vec<String>,
        #[serde(deserialize_with = "null_default")]
        owner_references: Vec<OwnerReference>,
    }
    let lean = Lean::deserialize(deserializer)?;
    Ok(Meta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version.parse().unwrap_or_default(),
        deletion_timestamp: lean.deletion_timestamp,
        finalizers: lean.finalizers,
        owner_references: lean.owner_references,
        ..Meta::default()
    })
}

/// A node of the graph. Most objects own nothing and are owned by nothing; what they need is kept small.
#[derive(Debug)]
struct Node {
    kind: Arc<Kind>,
    namespace: Box<str>,
    name: Box<str>,
    revision: u64,
    deletion: Option<jiff::Timestamp>,
    finalizers: Box<[String]>,
    owners: Box<[OwnerReference]>,
}

impl Node {
    fn waits(&self) -> bool {
        self.deletion.is_some() && self.finalizers.iter().any(|f| f == FOREGROUND)
    }

    fn meta(&self, uid: &str) -> Meta {
        Meta {
            name: self.name.to_string(),
            namespace: self.namespace.to_string(),
            uid: uid.to_owned(),
            resource_version: self.revision,
            deletion_timestamp: self.deletion,
            finalizers: self.finalizers.to_vec(),
            owner_references: self.owners.to_vec(),
            ..Meta::default()
        }
    }
}

/// All objects, by uid.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<Box<str>, Node>,
    /// By owner's uid, the dependents' uids.
    dependents: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
    kinds: BTreeMap<Kind, bool>,
    /// The served kinds have been looked up once.
    pub discovered: bool,
}

/// Whether an owner reference speaks of a kind, whatever the version.
pub fn is_kind(kind: &Kind, reference: &OwnerReference) -> bool {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    kind.kind == reference.kind && kind.group == group
}

impl Graph {
    /// A kind is going to be listed.
    pub fn expect_kind(&mut self, kind: &Kind) {
        self.kinds.insert(kind.clone(), false);
    }

    /// A kind is not served any more.
    pub fn forget_kind(&mut self, kind: &Kind) {
        self.kinds.remove(kind);
        let gone: Vec<Box<str>> =
            self.nodes.iter().filter(|(_, n)| *n.kind == *kind).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// Whether every kind has been listed.
    pub fn is_complete(&self) -> bool {
        self.discovered && self.kinds.values().all(|listed| *listed)
    }

    /// The kind that a reference speaks of.
    pub fn kind_of(&self, reference: &OwnerReference) -> Option<Kind> {
        self.kinds.keys().find(|k| is_kind(k, reference)).cloned()
    }

    /// The object.
    pub fn get(&self, uid: &str) -> Option<(Kind, Meta)> {
        self.nodes.get(uid).map(|n| ((*n.kind).clone(), n.meta(uid)))
    }

    /// What the object owns, and whether it blocks the object's deletion.
    pub fn dependents(&self, uid: &str) -> Vec<(Kind, Meta, bool)> {
        let Some(dependents) = self.dependents.get(uid) else { return Vec::new() };
        dependents
            .iter()
            .filter_map(|d| {
                let node = self.nodes.get(d)?;
                let blocks = node.owners.iter().any(|r| r.uid == uid && r.block_owner_deletion == Some(true));
                Some(((*node.kind).clone(), node.meta(d), blocks))
            })
            .collect()
    }

    /// The owner that a reference from an object in `namespace` speaks of; `None` if it is not known.
    pub fn owner(&self, reference: &OwnerReference, namespace: &str) -> Option<Owner> {
        let node = self.nodes.get(reference.uid.as_str())?;
        // A namespaced owner in another namespace owns nothing here.
        if node.kind.namespaced && &*node.namespace != namespace {
            return Some(Owner::Gone);
        }
        Some(if node.waits() { Owner::Waiting } else { Owner::Solid })
    }

    /// Takes an object in; the uids to look at.
    fn put(&mut self, kind: &Arc<Kind>, meta: Meta) -> Vec<Box<str>> {
        let uid: Box<str> = meta.uid.clone().into();
        if self.nodes.get(&uid).is_some_and(|n| n.revision >= meta.resource_version) {
            return Vec::new();
        }
        let mut look = Vec::new();
        let old = self.nodes.remove(&uid);
        for reference in old.iter().flat_map(|n| &n.owners) {
            self.unlink(&reference.uid, &uid);
            // An owner that waits may have waited for this reference.
            let still =
                |r: &OwnerReference| r.uid == reference.uid && r.block_owner_deletion == reference.block_owner_deletion;
            if !meta.owner_references.iter().any(still) {
                look.push(reference.uid.clone().into());
            }
        }
        for reference in &meta.owner_references {
            self.dependents.entry(reference.uid.clone().into()).or_default().insert(uid.clone());
        }
        let node = Node {
            kind: kind.clone(),
            namespace: meta.namespace.into(),
            name: meta.name.into(),
            revision: meta.resource_version,
            deletion: meta.deletion_timestamp,
            finalizers: meta.finalizers.into(),
            owners: meta.owner_references.into(),
        };
        let ours = node.deletion.is_some() && node.finalizers.iter().any(|f| f == FOREGROUND || f == ORPHAN);
        let started_waiting = node.waits() && !old.as_ref().is_some_and(Node::waits);
        if started_waiting {
            look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        let owners_changed = old.as_ref().is_none_or(|o| o.owners != node.owners);
        let without_owner =
            owners_changed && node.owners.iter().any(|r| self.owner(r, &node.namespace) != Some(Owner::Solid));
        if ours || without_owner {
            look.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        look
    }

    /// Takes note that an object is gone; the uids to look at.
    fn remove(&mut self, uid: &str) -> Vec<Box<str>> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut look: Vec<Box<str>> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for reference in &node.owners {
            self.unlink(&reference.uid, uid);
            look.push(reference.uid.clone().into());
        }
        look
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// Is told of every object that is gone: its kind and its namespace.
pub type Gone = Arc<dyn Fn(&Kind, &str) + Send + Sync>;

/// Feeds a kind's objects into the graph.
pub struct KindFeed {
    kind: Arc<Kind>,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Keys>,
    gone: Gone,
    /// Told when there may be other kinds than before.
    kinds_changed: Arc<Notify>,
}

impl KindFeed {
    /// For a kind that the graph expects.
    pub fn new(kind: Kind, graph: Arc<Mutex<Graph>>, queue: Arc<Keys>, gone: Gone, kinds_changed: Arc<Notify>) -> Self {
        Self { kind: Arc::new(kind), graph, queue, gone, kinds_changed }
    }

    /// Definitions of kinds, and who serves them, say which kinds there are.
    fn tell(&self) {
        if matches!(&*self.kind.kind, "CustomResourceDefinition" | "APIService") {
            self.kinds_changed.notify_one();
        }
    }

    fn look(&self, uids: Vec<Box<str>>) {
        for uid in uids {
            self.queue.add(Key::new("", &uid));
        }
    }
}

impl Feed for KindFeed {
    type Item = Object;

    fn revision(item: &Object) -> u64 {
        item.metadata.resource_version
    }

    fn replace(&self, items: Vec<Object>, _revision: u64) {
        let mut look = Vec::new();
        let mut emptier: BTreeSet<Box<str>> = BTreeSet::new();
        {
            let mut graph = self.graph.lock();
            let listed: BTreeSet<&str> = items.iter().map(|o| o.metadata.uid.as_str()).collect();
            let gone: Vec<Box<str>> = graph
                .nodes
                .iter()
                .filter(|(uid, n)| *n.kind == *self.kind && !listed.contains(&***uid))
                .map(|(uid, _)| uid.clone())
                .collect();
            for uid in gone {
                emptier.extend(graph.nodes.get(&uid).map(|node| node.namespace.clone()));
                look.extend(graph.remove(&uid));
            }
            for item in items {
                look.extend(graph.put(&self.kind, item.metadata));
            }
            graph.kinds.insert((*self.kind).clone(), true);
        }
        emptier.iter().for_each(|namespace| (self.gone)(&self.kind, namespace));
        self.look(look);
    }

    fn put(&self, item: Object) {
        let look = self.graph.lock().put(&self.kind, item.metadata);
        self.look(look);
        self.tell();
    }

    fn delete(&self, item: Object) {
        let look = self.graph.lock().remove(&item.metadata.uid);
        (self.gone)(&self.kind, &item.metadata.namespace);
        self.look(look);
        self.tell();
    }

    fn bookmark(&self, _revision: u64) {}
}
