//! `RuntimeClass`: a pod takes over what its runtime class adds: overhead, node selector, tolerations.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_schema::status::Status;

use super::support::{forbidden, is_new_pod};
use super::{Plugin, Review};
use crate::json::{array, decode, list, object, text};
use crate::reader::Reader;

/// The plugin.
pub struct RuntimeClass {
    reader: Arc<dyn Reader>,
}

impl RuntimeClass {
    /// Classes are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    let overhead = class.pointer("/overhead/podFixed").filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
    match (overhead, spec.get("overhead").filter(|o| !o.is_null())) {
        (Some(overhead), None) => spec["overhead"] = overhead.clone(),
        (Some(overhead), Some(given)) if overhead != given => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (None, Some(_)) => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        _ => {}
    }
    for (key, value) in class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        let Some(selector) = object(spec, "nodeSelector") else { break };
        match selector.get(key) {
            Some(given) if given != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    given.as_str().unwrap_or_default()
                ));
            }
            _ => selector[key] = value.clone(),
        }
    }
    let wanted = list(class, "/scheduling/tolerations");
    if !wanted.is_empty()
        && let Some(tolerations) = array(spec, "tolerations")
    {
        let missing: Vec<Value> = wanted.iter().filter(|t| !tolerations.contains(t)).cloned().collect();
        tolerations.extend(missing);
    }
    Ok(())
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is_new_pod(review) {
            return Ok(());
        }
        let Some(pod) = &mut review.object else { return Ok(()) };
        let name = text(pod, "/spec/runtimeClassName").to_owned();
        let result = match name.as_str() {
            "" if pod.pointer("/spec/overhead").is_some_and(|o| !o.is_null()) => {
                Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned())
            }
            "" => Ok(()),
            name => match self.reader.get("node.k8s.io", "runtimeclasses", "", name) {
                Some(entry) => apply(pod, &decode(&entry.bytes)),
                None => Err(format!("pod rejected: RuntimeClass {name:?} not found")),
            },
        };
        result.map_err(|why| forbidden(review, &why))
    }
}
