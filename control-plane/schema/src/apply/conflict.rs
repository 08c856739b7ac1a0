//! What an applier hears when others own what it would change.

use std::collections::BTreeMap;

use super::element::Element;
use super::managed::ManagerId;
use super::set::shown;
use super::updater::Error;
use crate::status::{Cause, Details, Status};

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// Who.
    pub manager: ManagerId,
    /// What.
    pub path: Vec<Element>,
}

/// `"kubectl" using apps/v1`, `"kubelet" with subresource "status" using v1`.
fn manager(id: &ManagerId) -> String {
    let mut text = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", id.subresource));
    }
    if !id.applied {
        text.push_str(&format!(" using {}", id.version));
    }
    text
}

/// `Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas`.
pub fn message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        let (manager, path) = (manager(&one.manager), shown(&one.path));
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut by_manager: BTreeMap<&ManagerId, Vec<&Conflict>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(conflict);
    }
    let mut lines = Vec::new();
    for (id, conflicts) in by_manager {
        lines.push(format!("conflicts with {}:", manager(id)));
        lines.extend(conflicts.iter().map(|conflict| format!("- {}", shown(&conflict.path))));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl Error {
    /// The answer to the applier.
    pub fn status(&self) -> Status {
        match self {
            Self::Conflicts(conflicts) => {
                let cause = |conflict: &Conflict| Cause {
                    reason: "FieldManagerConflict".into(),
                    message: format!("conflict with {}", manager(&conflict.manager)),
                    field: shown(&conflict.path),
                };
                let details = Details { causes: conflicts.iter().map(cause).collect(), ..Details::default() };
                Status { details: Some(Box::new(details)), ..Status::new(409, "Conflict", self.to_string()) }
            }
            Self::BadRequest(why) => Status::bad_request(why.clone()),
            Self::Other(why) => Status::new(500, "", why.clone()),
        }
    }
}
