//! Resource quotas: how much of what they limit is used (upstream `pkg/controller/resourcequota`).
//!
//! What is created is charged by the API server, in the transaction that creates it. What goes away, and what a new or
//! changed quota begins with, is counted here: first the quota is read, then the objects, and the result is stored only
//! if the quota has not changed since. Whatever was charged in between has changed it, so nothing is ever counted too low.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use xebec_schema::quota::{self, Amounts, Source};

use crate::context::Context;
use crate::runtime::api::{ApiError, Scope};
use crate::runtime::cache::Change;
use crate::runtime::kind::Kind;
use crate::runtime::meta::Key;
use crate::runtime::plan::{Plan, Write};
use crate::runtime::{Controller, Keys, SyncError, kind};

/// How often everything is counted again even if nothing is known to have gone (`--resource-quota-sync-period`).
const RESYNC: Duration = Duration::from_secs(300);
/// Objects that go together are counted once.
const SETTLE: Duration = Duration::from_millis(200);
/// Objects to a page.
const PAGE: u32 = 500;

/// What there is in a namespace, as far as a quota is about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Objects whose contents matter, by plural.
    pub objects: BTreeMap<&'static str, Vec<Value>>,
    /// How many of others there are, by group and plural.
    pub counts: BTreeMap<(String, String), i64>,
}

/// Writes the quota's status if it is not what is found.
pub fn plan(quota: &Value, found: &Found, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(status) = quota::status(quota, &used(quota, found, now)) {
        let mut changed = quota.clone();
        changed["status"] = status;
        plan.act(Write::replace(&kind::RESOURCE_QUOTA, "status", changed).into());
    }
    plan
}

/// How much of each resource that the quota limits is used.
fn used(quota: &Value, found: &Found, now: Timestamp) -> Amounts {
    let mut out = Amounts::new();
    let hard = quota::amounts(quota, "spec.hard");
    for (plural, objects) in &found.objects {
        let kind = quota::Kind { group: "", plural };
        // Nothing is something, too.
        for name in hard.keys().filter(|name| kind.uses(name)) {
            out.entry(name.clone()).or_insert(xebec_schema::quantity::Quantity::ZERO);
        }
        for object in objects.iter().filter(|object| quota::in_scope(kind, quota, object)) {
            quota::add(&mut out, &kind.usage(object, now));
        }
    }
    for ((group, plural), count) in &found.counts {
        let kind = quota::Kind { group, plural };
        // Scopes are about pods and claims only.
        let count = if quota::in_scope(kind, quota, &Value::Null) { *count } else { 0 };
        let amount = xebec_schema::quantity::Quantity::new(count, xebec_schema::quantity::Format::DecimalSi);
        for name in hard.keys().filter(|name| kind.uses(name)) {
            out.insert(name.clone(), amount);
        }
    }
    out
}

/// The controller.
#[derive(Debug)]
pub struct ResourceQuotas {
    cx: Context,
    queue: Arc<Keys>,
}

impl ResourceQuotas {
    /// Connects the controller to the caches.
    pub fn new(cx: &Context) -> Arc<Self> {
        let this = Arc::new(Self { cx: cx.of("resourcequota-controller"), queue: Arc::default() });
        let keys = this.queue.clone();
        cx.caches.resource_quotas.on_change(move |change| {
            let stays = !matches!(change, Change::Removed(_));
            if stays && change.previous().is_none_or(|old| old.spec != change.latest().spec) {
                keys.add(change.latest().metadata.key());
            }
        });
        let changed = this.clone();
        cx.caches.pods.on_change(move |change| {
            let (was, is) = (change.previous(), change.latest());
            let ended = is.is_finished() && was.is_some_and(|was| !was.is_finished());
            if ended {
                changed.something_went("", "pods", &is.metadata.namespace);
            }
        });
        let changed = this.clone();
        cx.caches.services.on_change(move |change| {
            if let Change::Updated(was, is) = change
                && (&was.spec.kind, was.spec.ports.len()) != (&is.spec.kind, is.spec.ports.len())
            {
                changed.something_went("", "services", &is.metadata.namespace);
            }
        });
        this
    }

    /// Has the quotas counted again that are about a kind of which something went or got smaller.
    pub fn something_went(&self, group: &str, plural: &str, namespace: &str) {
        let kind = quota::Kind { group, plural };
        for quota in self.cx.caches.resource_quotas.in_namespace(namespace) {
            if quota.spec.hard.keys().any(|name| kind.uses(name)) {
                self.queue.add_after(quota.metadata.key(), SETTLE);
            }
        }
    }

    async fn find(&self, namespace: &str, sources: impl IntoIterator<Item = Source>) -> Result<Found, ApiError> {
        let mut found = Found::default();
        for source in sources {
            match source {
                Source::Objects(plural) => {
                    let objects = self.objects(plural, namespace).await?;
                    found.objects.insert(plural, objects);
                }
                Source::Count { group, plural } => {
                    if let Some(count) = self.count(&group, &plural, namespace).await? {
                        found.counts.insert((group, plural), count);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn objects(&self, plural: &'static str, namespace: &str) -> Result<Vec<Value>, ApiError> {
        let kind = core(plural);
        let scope = Scope { namespace: namespace.to_owned(), ..Scope::default() };
        let (mut out, mut resume) = (Vec::new(), None::<String>);
        loop {
            let page = match self.cx.api.list_page(&kind, &scope, PAGE, resume.as_deref()).await {
                // The kind is not served: there are none.
                Err(error) if error.is_not_found() => return Ok(out),
                page => read_page(&page?)?,
            };
            out.extend(page.items);
            match page.metadata.resume.filter(|token| !token.is_empty()) {
                Some(token) => resume = Some(token),
                None => return Ok(out),
            }
        }
    }

    /// How many objects of a kind there are; `None` if the kind is not served.
    async fn count(&self, group: &str, plural: &str, namespace: &str) -> Result<Option<i64>, ApiError> {
        let Some(kind) = self.served(group, plural).await? else { return Ok(None) };
        let scope = Scope { namespace: namespace.to_owned(), metadata_only: true, ..Scope::default() };
        match self.cx.api.list_page(&kind, &scope, 1, None).await {
            Err(error) if error.is_not_found() => Ok(None),
            page => {
                let page = read_page(&page?)?;
                let shown = i64::try_from(page.items.len()).unwrap_or(i64::MAX);
                Ok(Some(shown.saturating_add(page.metadata.remaining_item_count.unwrap_or(0))))
            }
        }
    }

    /// The kind in whichever version its group prefers.
    async fn served(&self, group: &str, plural: &str) -> Result<Option<Kind>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Group {
            preferred_version: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let mut kind = core(plural);
        if group.is_empty() {
            return Ok(Some(kind));
        }
        let body = match self.cx.api.get_raw(format!("/apis/{group}"), "application/json").await {
            Err(error) if error.is_not_found() => return Ok(None),
            body => body?,
        };
        let found: Group = serde_json::from_slice(&body).map_err(|e| ApiError::Decode(e.to_string()))?;
        kind.group = group.to_owned().into();
        kind.version = found.preferred_version.version.into();
        Ok(Some(kind))
    }
}

/// A kind of the core group, as far as its path goes.
fn core(plural: &str) -> Kind {
    Kind { group: "".into(), version: "v1".into(), plural: plural.to_owned().into(), kind: "".into(), namespaced: true }
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(rename = "continue")]
    resume: Option<String>,
    remaining_item_count: Option<i64>,
}

fn read_page(body: &[u8]) -> Result<Page, ApiError> {
    serde_json::from_slice(body).map_err(|e| ApiError::Decode(e.to_string()))
}

#[async_trait]
impl Controller for ResourceQuotas {
    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn queue(&self) -> &Arc<Keys> {
        &self.queue
    }

    fn workers(&self) -> usize {
        5
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, SyncError> {
        let quota: Value = match self.cx.api.get(&kind::RESOURCE_QUOTA, &key.namespace, &key.name).await {
            Err(error) if error.is_not_found() => return Ok(None),
            quota => quota?,
        };
        let hard = quota["spec"]["hard"].as_object().cloned().unwrap_or_default();
        let sources = quota::sources(hard.keys().map(String::as_str));
        let found = self.find(&key.namespace, sources).await?;
        self.cx.execute(plan(&quota, &found, self.cx.clock.now())).await?;
        Ok(Some(RESYNC))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::plan::{Action, Verb};

    fn written(quota: &Value, found: &Found) -> Option<Value> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        plan(quota, found, now).actions().next().map(|action| match action {
            Action::Write(write) => match &write.verb {
                Verb::Replace("status", object) => object.clone(),
                other => panic!("{other:?}"),
            },
            Action::Event(event) => panic!("{event:?}"),
        })
    }

    #[test]
    fn what_is_there_is_counted() {
        let quota = json!({"metadata": {"name": "q", "namespace": "n", "resourceVersion": "7"},
            "spec": {"hard": {"pods": "3", "requests.cpu": "1", "count/jobs.batch": "5", "services": "1", "count/nones.none": "1"}}});
        let pod = |phase: &str| {
            json!({"status": {"phase": phase},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}})
        };
        let found = Found {
            objects: BTreeMap::from([
                ("pods", vec![pod("Running"), pod("Pending"), pod("Failed")]),
                ("services", vec![]),
            ]),
            counts: BTreeMap::from([(("batch".into(), "jobs".into()), 4)]),
        };
        let object = written(&quota, &found).unwrap();
        let used = json!({"pods": "2", "requests.cpu": "500m", "count/jobs.batch": "4", "services": "0"});
        assert_eq!(object["status"], json!({"hard": quota["spec"]["hard"], "used": used}));
        assert_eq!(object["metadata"]["resourceVersion"], "7", "stored only if nothing was charged since");
        assert_eq!(written(&object, &found), None);
    }

    #[test]
    fn scopes_leave_out() {
        let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": {"pods": "3", "secrets": "1"}, "scopes": ["Terminating"]}});
        let pod = |deadline: Value| json!({"spec": {"activeDeadlineSeconds": deadline, "containers": []}});
        let found = Found {
            objects: BTreeMap::from([("pods", vec![pod(json!(5)), pod(Value::Null)])]),
            counts: BTreeMap::from([((String::new(), "secrets".into()), 4)]),
        };
        assert_eq!(written(&quota, &found).unwrap()["status"]["used"], json!({"pods": "1", "secrets": "0"}));
    }
}
