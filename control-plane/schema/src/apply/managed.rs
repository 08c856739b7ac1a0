//! `metadata.managedFields`: who owns what, as it is written down.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::set::Set;

/// Who made changes, and how. One that applies is the same in all versions of the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// The manager's name.
    pub manager: String,
    /// Whether by apply.
    pub applied: bool,
    /// The version, unless by apply.
    pub version: String,
    /// The part of the object that it wrote to; mostly empty.
    pub subresource: String,
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The fields.
    pub set: Set,
    /// In which version they are called so.
    pub version: String,
    /// Whether by apply.
    pub applied: bool,
}

/// All managers of an object.
pub type Managers = BTreeMap<ManagerId, Owned>;

/// What an object's `metadata.managedFields` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed {
    /// Who owns what.
    pub managers: Managers,
    /// When each made their last change, in RFC 3339.
    pub times: BTreeMap<ManagerId, String>,
}

/// Why `metadata.managedFields` could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManagedError(String);

impl ManagerId {
    /// A manager; `unknown` without a name.
    pub fn new(manager: &str, applied: bool, version: &str, subresource: &str) -> Self {
        let manager = if manager.is_empty() { "unknown" } else { manager };
        let version = if applied { String::new() } else { version.to_owned() };
        Self { manager: manager.to_owned(), applied, version, subresource: subresource.to_owned() }
    }
}

impl Managed {
    /// Reads the list of an object.
    ///
    /// # Errors
    /// If an entry is not of its form.
    pub fn read(list: &Value) -> Result<Self, ManagedError> {
        let fail = |why: String| Err(ManagedError(why));
        let mut managed = Self::default();
        for (at, entry) in list.as_array().into_iter().flatten().enumerate() {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            let applied = match text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return fail("operation must be `Apply` or `Update`".into()),
            };
            let version = text("apiVersion");
            if version.is_empty() {
                return fail("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return fail(format!("missing fieldsType in managed fields entry {at}")),
                other => return fail(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
            }
            let id = ManagerId {
                manager: text("manager").to_owned(),
                applied,
                version: if applied { String::new() } else { version.to_owned() },
                subresource: text("subresource").to_owned(),
            };
            let set = Set::from_fields(&entry["fieldsV1"])
                .map_err(|why| ManagedError(format!("error decoding versioned set: error decoding set: {why}")))?;
            if let Some(time) = entry["time"].as_str() {
                managed.times.insert(id.clone(), time.to_owned());
            }
            managed.managers.insert(id, Owned { set, version: version.to_owned(), applied });
        }
        Ok(managed)
    }

    /// The list for an object; `None` if nobody owns anything.
    pub fn write(&self) -> Option<Value> {
        let mut entries: Vec<(&ManagerId, &Owned)> = self.managers.iter().collect();
        if entries.is_empty() {
            return None;
        }
        entries.sort_by(|(a, a_owned), (b, b_owned)| {
            // `Apply` before `Update`, the oldest first.
            let key = |id: &ManagerId| (!id.applied, self.seconds(id));
            key(a).cmp(&key(b)).then_with(|| {
                (&a.manager, &a_owned.version, &a.subresource).cmp(&(&b.manager, &b_owned.version, &b.subresource))
            })
        });
        Some(entries.into_iter().map(|(id, owned)| self.entry(id, owned)).collect())
    }

    /// When a manager made their last change, in seconds.
    pub fn seconds(&self, id: &ManagerId) -> i64 {
        let time = self.times.get(id).and_then(|time| time.parse::<Timestamp>().ok());
        time.map_or(0, Timestamp::as_second)
    }

    fn entry(&self, id: &ManagerId, owned: &Owned) -> Value {
        let mut entry = Map::new();
        entry.insert("apiVersion".into(), owned.version.as_str().into());
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), owned.set.to_fields());
        if !id.manager.is_empty() {
            entry.insert("manager".into(), id.manager.as_str().into());
        }
        entry.insert("operation".into(), if owned.applied { "Apply" } else { "Update" }.into());
        if !id.subresource.is_empty() {
            entry.insert("subresource".into(), id.subresource.as_str().into());
        }
        if let Some(time) = self.times.get(id) {
            entry.insert("time".into(), time.as_str().into());
        }
        Value::Object(entry)
    }
}

/// Whether a client asks to forget who owns what: by an empty list, or one with an empty entry.
pub fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => *one == json!({}) || one.is_null(),
        _ => false,
    }
}

/// Whether two lists are the same but for their times.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let entries = |list: &Value| list.as_array().map_or(0, Vec::len);
    let timeless = |a: &Value, b: &Value| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let same = |(key, value): (&String, &Value)| key == "time" || b.get(key) == Some(value);
            a.iter().all(same) && b.keys().all(|key| key == "time" || a.contains_key(key))
        }
        _ => a == b,
    };
    let pairs = a.as_array().into_iter().flatten().zip(b.as_array().into_iter().flatten());
    entries(a) == entries(b) && pairs.into_iter().all(|(a, b)| timeless(a, b))
}
