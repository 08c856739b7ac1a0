//! The field manager: what every write does to `metadata.managedFields`, and what an apply makes of an object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::compare::compare;
use super::conflict::Conflict;
use super::element::Element;
use super::field_set::field_set;
use super::managed::{Managed, ManagerId, Owned, is_reset};
use super::set::Set;
use super::updater::{Converter, Error, Filter, Typed, Updater};
use super::validate::validate;
use crate::validate::MAX_ANNOTATIONS_BYTES;

/// At most this many managers that update are told apart; the oldest become one.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Who the oldest become.
const ANCIENT: &str = "ancient-changes";
/// Who owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Where kubectl keeps what it applied last on the client's side.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over what [`LAST_APPLIED`] says.
const KUBECTL: &str = "kubectl";

/// What nobody ever owns.
static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    Set::of([
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Keeps the books for writes to a kind, in one version, to one part of its objects.
#[derive(Debug)]
pub struct FieldManager<'a, C> {
    /// Converts objects.
    pub converter: &'a C,
    /// The kind, for applied configurations to be of.
    pub kind: &'a str,
    /// The version of the writes, `apps/v1`.
    pub version: &'a str,
    /// The part that is written to; empty for the object itself.
    pub subresource: &'a str,
    /// What writes to that part cannot change.
    pub filter: &'a Filter,
    /// The time, in RFC 3339 to the second.
    pub now: &'a str,
}

impl<C: Converter> FieldManager<'_, C> {
    /// Notes in `new` who changed what, after a write that was no apply. `live` is the object as it is stored; `None`
    /// for one that is created.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str) {
        let listed = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("managedFields"));
        let managed = self.claimed(live, listed.unwrap_or_default());
        let noted = match self.updated(live, new, managed, manager) {
            Ok(managed) => managed.write(),
            // Better what was known before than nothing.
            Err(_) => live.and_then(|live| live["metadata"].get("managedFields").cloned()),
        };
        put(new, noted);
    }

    /// What a client says of managers counts if it makes sense; else what is known.
    fn claimed(&self, live: Option<&Value>, listed: Value) -> Managed {
        let known = || live.map(|live| Managed::read(&live["metadata"]["managedFields"]).unwrap_or_default());
        if !self.subresource.is_empty() {
            return known().unwrap_or_default();
        }
        if is_reset(&listed) {
            return Managed::default();
        }
        match Managed::read(&listed) {
            Ok(managed) if !managed.managers.is_empty() => managed,
            _ => known().unwrap_or_default(),
        }
    }

    fn updated(&self, live: Option<&Value>, new: &Value, managed: Managed, manager: &str) -> Result<Managed, Error> {
        // Nobody was tracked, so nobody is: until somebody applies.
        if managed.managers.is_empty() && live.is_some() {
            return Ok(managed);
        }
        let id = ManagerId::new(manager, false, self.version, self.subresource);
        let managed = self.tracked(live, new, managed, &id)?;
        Ok(capped(managed))
    }

    /// Who owns what after a change from `live` to `new` by a manager.
    fn tracked(&self, live: Option<&Value>, new: &Value, managed: Managed, id: &ManagerId) -> Result<Managed, Error> {
        let Managed { managers, mut times } = managed;
        let empty = json!({});
        let live = self.versioned(live.unwrap_or(&empty))?;
        let new = self.versioned(new)?;
        // By a name that is nobody's, what this write changes is seen apart from what its manager had before.
        let this = ManagerId::new("current-operation", false, self.version, self.subresource);
        let mut managers = self.updater().update(&live, &new, managers, &this)?;
        if let Some(changed) = managers.remove(&this) {
            let set = changed.set.difference(&NEVER_OWNED);
            if !set.is_empty() {
                let version = changed.version;
                let before = managers.remove(id).map(|owned| owned.set.union(&set));
                managers.insert(id.clone(), Owned { set: before.unwrap_or(set), version, applied: false });
                times.insert(id.clone(), self.now.to_owned());
            }
        }
        Ok(Managed { managers, times })
    }

    /// What an applied configuration makes of an object; without a resource version if the configuration has none.
    ///
    /// # Errors
    /// Conflicts with others, unless `force`; a configuration that is not of the kind.
    pub fn apply(
        &self,
        live: Option<&Value>,
        configuration: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, Error> {
        self.check_kind(configuration)?;
        let managed = live.map(|live| Managed::read(&live["metadata"]["managedFields"])).transpose();
        let managed = managed.map_err(|why| Error::Other(format!("failed to decode managed fields: {why}")))?;
        let mut managed = managed.unwrap_or_default();
        if let (true, Some(live)) = (managed.managers.is_empty(), live) {
            let id = ManagerId::new(BEFORE_FIRST_APPLY, false, self.version, self.subresource);
            managed = self.tracked(None, live, managed, &id)?;
        }
        let mut bare = live.map_or_else(|| self.blank(), Clone::clone);
        if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let applied = self.applied(&bare, configuration, managed.clone(), manager, force);
        let (mut object, managed) = match applied {
            Err(Error::Conflicts(conflicts)) if manager == KUBECTL => {
                let rest = self.not_from_client_side(&bare, conflicts)?;
                if !rest.is_empty() {
                    return Err(Error::Conflicts(rest));
                }
                self.applied(&bare, configuration, managed, manager, true)?
            }
            other => other?,
        };
        if manager == KUBECTL && has_last_applied(&object) {
            set_last_applied(&mut object, configuration);
        }
        if configuration["metadata"]["resourceVersion"].is_null()
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("resourceVersion");
        }
        put(&mut object, managed.write());
        Ok(object)
    }

    /// Before an object is, it is this much.
    fn blank(&self) -> Value {
        json!({"apiVersion": self.version, "kind": self.kind})
    }

    fn applied(
        &self,
        live: &Value,
        configuration: &Value,
        managed: Managed,
        manager: &str,
        force: bool,
    ) -> Result<(Value, Managed), Error> {
        let id = ManagerId::new(manager, true, self.version, self.subresource);
        let Managed { managers, mut times } = managed;
        let typed = self.versioned(live)?;
        validate(typed.ty, configuration).map_err(|why| {
            let text = |key: &str| configuration["metadata"][key].as_str().unwrap_or_default();
            let kind = gvk(self.version, self.kind);
            let (namespace, name) = (text("namespace"), text("name"));
            Error::Other(format!("failed to create typed patch object ({namespace}/{name}; {kind}): {why}"))
        })?;
        let configuration = Typed { value: Cow::Borrowed(configuration), version: self.version, ty: typed.ty };
        let (object, mut managers) = self.updater().apply(&typed, &configuration, managers, &id, force)?;
        if let Some(owned) = managers.remove(&id) {
            let set = owned.set.difference(&NEVER_OWNED);
            if !set.is_empty() {
                managers.insert(id.clone(), Owned { set, ..owned });
            }
        }
        let object = match object {
            Some(object) => {
                times.insert(id, self.now.to_owned());
                object
            }
            None => typed.value.into_owned(),
        };
        Ok((object, Managed { managers, times }))
    }

    fn check_kind(&self, configuration: &Value) -> Result<(), Error> {
        let text = |key: &str| configuration[key].as_str().unwrap_or_default();
        if text("kind") != self.kind || text("apiVersion") != self.version {
            let kind = gvk(text("apiVersion"), text("kind"));
            return Err(Error::BadRequest(format!("invalid object type: {kind}")));
        }
        if !configuration["metadata"]["managedFields"].is_null() {
            return Err(Error::BadRequest("metadata.managedFields must be nil".into()));
        }
        Ok(())
    }

    /// The conflicts that are not about what kubectl applied on the client's side before.
    fn not_from_client_side(&self, live: &Value, conflicts: Vec<Conflict>) -> Result<Vec<Conflict>, Error> {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
        let Ok(last) = serde_json::from_str::<Value>(text) else { return Ok(conflicts) };
        let live = self.versioned(live)?;
        if last["apiVersion"].as_str() != Some(self.version) || validate(live.ty, &last).is_err() {
            return Ok(conflicts);
        }
        let compared = compare(live.ty, &last, &live.value);
        let allowed = field_set(live.ty, &last);
        let allowed = allowed.difference(&compared.modified);
        let allowed = allowed.difference(&compared.added).difference(&compared.removed);
        Ok(conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path)).collect())
    }

    fn updater(&self) -> Updater<'_, C> {
        Updater { converter: self.converter, filter: self.filter }
    }

    /// The object in the version of the writes.
    fn versioned<'v>(&'v self, object: &'v Value) -> Result<Typed<'v>, Error> {
        let version = self.version;
        let missing = || Error::Other(format!("no corresponding type for {}", gvk(version, self.kind)));
        let ty = self.converter.type_of(version).ok_or_else(missing)?;
        let value = match object["apiVersion"].as_str() {
            Some(said) if said != version => Cow::Owned(self.converter.convert(object, version).map_err(Error::Other)?),
            _ => Cow::Borrowed(object),
        };
        Ok(Typed { value, version, ty })
    }
}

/// `apps/v1, Kind=Deployment`.
fn gvk(version: &str, kind: &str) -> String {
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}

fn put(object: &mut Value, managed: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else { return };
    match managed {
        Some(managed) => metadata.insert("managedFields".into(), managed),
        None => metadata.remove("managedFields"),
    };
}

/// Makes one of the managers that have not updated for the longest time, if there are too many.
fn capped(mut managed: Managed) -> Managed {
    let mut updaters: Vec<ManagerId> =
        managed.managers.iter().filter(|(_, owned)| !owned.applied).map(|(id, _)| id.clone()).collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATE_MANAGERS {
        return managed;
    }
    updaters.sort_by_key(|id| managed.seconds(id));
    let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
    for id in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            break;
        }
        let Some(version) = managed.managers.get(&id).map(|owned| owned.version.clone()) else { continue };
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        let bucket = ManagerId::new(ANCIENT, false, &version, "");
        if !managed.managers.contains_key(&bucket)
            && let Some(owned) = managed.managers.remove(first)
        {
            managed.managers.insert(bucket.clone(), owned);
        }
        if id != bucket
            && let Some(owned) = managed.managers.remove(&id)
            && let Some(all) = managed.managers.get_mut(&bucket)
        {
            all.set = owned.set.union(&all.set);
        }
        if let Some(time) = managed.times.get(&id).cloned() {
            managed.times.insert(bucket, time);
        }
        count -= 1;
    }
    managed
}

fn has_last_applied(object: &Value) -> bool {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().is_some_and(|text| !text.is_empty())
}

/// Keeps kubectl's note of what it applied up to date, for those who go back to applying on the client's side.
fn set_last_applied(object: &mut Value, configuration: &Value) {
    let mut bare = configuration.clone();
    if let Some(annotations) = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(LAST_APPLIED.into(), format!("{bare}\n").into());
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > MAX_ANNOTATIONS_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

/// The path `spec.replicas`.
pub(super) fn replicas() -> Vec<Element> {
    vec![Element::field("spec"), Element::field("replicas")]
}
