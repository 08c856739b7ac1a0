//! `DefaultTolerationSeconds`: a pod stays on a node that is not ready or unreachable for five minutes, if it does not
//! say otherwise.

use async_trait::async_trait;
use serde_json::{Value, json};
use xebec_schema::status::Status;

use super::support::is;
use super::{Operation, Plugin, Review};
use crate::json::{array, text};

const SECONDS: i64 = 300;

/// The plugin.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let asks = matches!(review.operation, Operation::Create | Operation::Update);
        if !asks || !is(review, "", "pods") {
            return Ok(());
        }
        let spec = review.object.as_mut().and_then(|pod| pod.get_mut("spec"));
        let Some(tolerations) = spec.and_then(|spec: &mut Value| array(spec, "tolerations")) else { return Ok(()) };
        let missing: Vec<&str> = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
            .into_iter()
            .filter(|key| !tolerations.iter().any(|toleration| concerns(toleration, key)))
            .collect();
        for key in missing {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
        Ok(())
    }
}

fn concerns(toleration: &Value, key: &str) -> bool {
    let (own, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
    (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
}
