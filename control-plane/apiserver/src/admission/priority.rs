//! `Priority`: the name of a pod's priority class becomes a number.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::support::{forbidden, is, is_new_pod};
use super::{Operation, Plugin, Review};
use crate::json::{decode, flag, text};
use crate::reader::Reader;

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

/// The plugin.
pub struct Priority {
    reader: Arc<dyn Reader>,
}

/// What a pod gets from its class.
struct Class {
    name: String,
    value: i64,
    preemption: String,
}

impl Priority {
    /// Classes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn class_of(&self, pod: &Value) -> Result<Class, String> {
        let class = |value: &Value| Class {
            name: text(value, "/metadata/name").to_owned(),
            value: value["value"].as_i64().unwrap_or(0),
            preemption: Some(text(value, "/preemptionPolicy")).filter(|p| !p.is_empty()).unwrap_or(PREEMPT).to_owned(),
        };
        match text(pod, "/spec/priorityClassName") {
            "" => {
                // Of several, which there should not be, the one of the lowest value.
                let defaults = self.defaults();
                let lowest = defaults.iter().map(class).min_by_key(|c| c.value);
                Ok(lowest.unwrap_or(Class { name: String::new(), value: 0, preemption: PREEMPT.into() }))
            }
            name => match self.reader.get(GROUP, "priorityclasses", "", name) {
                Some(entry) => Ok(class(&decode(&entry.bytes))),
                None => Err(format!("no PriorityClass with name {name} was found")),
            },
        }
    }

    fn defaults(&self) -> Vec<Value> {
        let all = self.reader.list(GROUP, "priorityclasses", "");
        all.iter().map(|entry| decode(&entry.bytes)).filter(|c| flag(c, "/globalDefault")).collect()
    }

    fn admit_pod(&self, pod: &mut Value) -> Result<(), String> {
        let class = self.class_of(pod)?;
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|p| *p != class.value) {
            return Err(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {} from the given PriorityClass name",
                class.value
            ));
        }
        if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|p| *p != class.preemption) {
            return Err(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                class.preemption
            ));
        }
        if !class.name.is_empty() {
            spec.insert("priorityClassName".into(), class.name.into());
        }
        spec.insert("priority".into(), class.value.into());
        spec.insert("preemptionPolicy".into(), class.preemption.into());
        Ok(())
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is_new_pod(review) {
            return Ok(());
        }
        let Some(pod) = &mut review.object else { return Ok(()) };
        self.admit_pod(pod).map_err(|why| forbidden(review, &why))
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || !is(review, GROUP, "priorityclasses") {
            return Ok(());
        }
        let Some(class) = review.object.as_ref().filter(|c| flag(c, "/globalDefault")) else { return Ok(()) };
        let name = text(class, "/metadata/name");
        let other = self.defaults().into_iter().find(|c| text(c, "/metadata/name") != name);
        match other {
            None => Ok(()),
            Some(other) => {
                let other = text(&other, "/metadata/name");
                let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(forbidden(review, &why))
            }
        }
    }
}
