//! What upstream's registry does with devices beyond looking at one object: who may look at devices that others use is said
//! by the namespace (`pkg/registry/resource/resourceclaim`), and taints say since when (`pkg/apis/resource/v1/defaults.go`).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use xebec_clock::Clock;
use xebec_schema::field::{Error, Path};
use xebec_schema::status::Status;

use super::support::is;
use super::{Operation, Plugin, Review};
use crate::json::{decode, entry, flag, list, text};
use crate::reader::Reader;

const GROUP: &str = "resource.k8s.io";
/// On namespaces in which claims may be made for administrators.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

/// The plugin.
pub struct Devices {
    reader: Arc<dyn Reader>,
    clock: Clock,
}

impl Devices {
    /// Namespaces are read from `reader`.
    pub fn new(reader: Arc<dyn Reader>, clock: &Clock) -> Self {
        Self { reader, clock: clock.clone() }
    }

    fn allows_admin_access(&self, namespace: &str) -> bool {
        let namespace = self.reader.get("", "namespaces", "", namespace);
        namespace.is_some_and(|found| entry(&decode(&found.bytes), "/metadata/labels", ADMIN_ACCESS) == Some("true"))
    }
}

/// Where a claim, or a template of one, asks for devices that others use.
fn admin_requests(object: &Value, spec: &str, path: &str) -> Vec<Error> {
    let requests = list(object, &format!("{spec}/devices/requests")).iter().enumerate();
    let asking = requests.filter(|(_, request)| flag(request, "/exactly/adminAccess"));
    let error = |index: usize| {
        let path = Path::new(path).child("devices").child("requests").index(index);
        let why =
            format!("admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace");
        Error::forbidden(path.child("exactly").child("adminAccess"), why)
    };
    asking.map(|(index, _)| error(index)).collect()
}

#[async_trait]
impl Plugin for Devices {
    fn name(&self) -> &'static str {
        "Devices"
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let is_rule = is(review, GROUP, "devicetaintrules");
        if !is_rule && !is(review, GROUP, "resourceslices") {
            return Ok(());
        }
        let now = Value::from(self.clock.now_seconds().to_string());
        let Some(object) = &mut review.object else { return Ok(()) };
        let date = |taint: &mut Value| {
            if let Some(taint) = taint.as_object_mut()
                && taint.get("timeAdded").is_none_or(Value::is_null)
            {
                taint.insert("timeAdded".into(), now.clone());
            }
        };
        if is_rule {
            object.pointer_mut("/spec/taint").map(date);
            return Ok(());
        }
        let devices = object.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
        let taints = devices.into_iter().flatten().filter_map(|device| device.get_mut("taints")?.as_array_mut());
        taints.flatten().for_each(date);
        Ok(())
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.operation != Operation::Create {
            return Ok(());
        }
        let (kind, spec, path) = match () {
            () if is(review, GROUP, "resourceclaims") => ("ResourceClaim", "/spec", "spec"),
            () if is(review, GROUP, "resourceclaimtemplates") => ("ResourceClaimTemplate", "/spec/spec", "spec.spec"),
            () => return Ok(()),
        };
        let Some(object) = &review.object else { return Ok(()) };
        let errors = admin_requests(object, spec, path);
        if errors.is_empty() || self.allows_admin_access(review.namespace) {
            return Ok(());
        }
        Err(Status::invalid(GROUP, kind, text(object, "/metadata/name"), &errors))
    }
}
