//! Webhooks as they are configured, read again when a configuration changes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use xebec_schema::cel::admission::Sees;
use xebec_schema::field::Path;
use xebec_schema::policy::{self, Condition};

use super::matching::Matcher;
use crate::json::{decode, list, text};
use crate::reader::Reader;
use crate::webhook::Target;

const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Of all webhooks, this one.
    pub id: String,
    /// The name of the configuration.
    pub configuration: String,
    /// Its own.
    pub name: String,
    /// Where it is, or why that can't be said.
    pub target: Result<Target, String>,
    /// What it is called for.
    pub matcher: Matcher,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Without its answer, the request fails.
    pub fail: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// It may be called for what is not stored.
    pub dry_run: bool,
    /// It reads `v1` reviews; else, `v1beta1`.
    pub v1: bool,
    /// It is called again when others have changed the object.
    pub reinvoked: bool,
}

/// All webhooks of one sort, in the order in which they are called.
pub(super) struct Hooks {
    reader: Arc<dyn Reader>,
    plural: &'static str,
    known: ArcSwapOption<(u64, Arc<Vec<Hook>>)>,
}

impl Hooks {
    pub fn new(reader: Arc<dyn Reader>, plural: &'static str) -> Self {
        Self { reader, plural, known: ArcSwapOption::empty() }
    }

    /// As they are configured now.
    pub fn load(&self) -> Arc<Vec<Hook>> {
        let generation = self.reader.generation(GROUP, self.plural);
        if let Some(known) = &*self.known.load()
            && known.0 == generation
        {
            return known.1.clone();
        }
        // By name, as the reader lists them.
        let configurations = self.reader.list(GROUP, self.plural, "");
        let hooks = configurations.iter().flat_map(|entry| {
            let configuration = decode(&entry.bytes);
            let hooks = list(&configuration, "/webhooks").iter().enumerate();
            hooks.map(|(index, hook)| Hook::new(&entry.name, index, hook)).collect::<Vec<_>>()
        });
        let hooks = Arc::new(hooks.collect::<Vec<_>>());
        self.known.store(Some(Arc::new((generation, hooks.clone()))));
        hooks
    }
}

impl Hook {
    fn new(configuration: &str, index: usize, hook: &Value) -> Self {
        let sees = Sees { authorizer: true, ..Sees::default() };
        // What is stored has been validated.
        let conditions =
            policy::conditions(list(hook, "/matchConditions"), &Path::new("matchConditions"), sees, &mut Vec::new());
        let versions = list(hook, "/admissionReviewVersions").iter().filter_map(Value::as_str);
        let known = versions.into_iter().find(|version| matches!(*version, "v1" | "v1beta1"));
        Self {
            id: format!("{configuration}/{}/{index}", text(hook, "/name")),
            configuration: configuration.to_owned(),
            name: text(hook, "/name").to_owned(),
            target: Target::from_client_config(&hook["clientConfig"]),
            matcher: Matcher::new(hook),
            conditions,
            fail: text(hook, "/failurePolicy") != "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
            dry_run: matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
            v1: known != Some("v1beta1"),
            reinvoked: text(hook, "/reinvocationPolicy") == "IfNeeded",
        }
    }
}
