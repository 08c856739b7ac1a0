//! Role-based access control (upstream `plugin/pkg/auth/authorizer/rbac`).

mod index;
mod rule;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use rule::Rule;

use self::index::{Binding, Index, Subject};
use super::{Attributes, Authorizer, Decision, Verdict};
use crate::authn::UserInfo;
use crate::reader::Reader;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Decides by the roles and bindings that are stored. They are indexed by subject, anew when one of them changes.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    index: ArcSwap<Index>,
}

/// What a user may do (`SubjectRulesReviewStatus`).
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// The rules of all roles bound to the user, cluster-wide or in the namespace.
    pub rules: Vec<Arc<Rule>>,
    /// What could not be resolved: roles that do not exist.
    pub errors: Vec<String>,
}

impl Rbac {
    /// Reads roles and bindings from `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, index: ArcSwap::from_pointee(Index::default()) }
    }

    fn index(&self) -> Arc<Index> {
        let current = self.index.load_full();
        if current.is_current(&*self.reader) {
            return current;
        }
        let fresh = Arc::new(Index::build(&*self.reader, &current));
        self.index.store(fresh.clone());
        fresh
    }

    /// Everything `user` may do in `namespace` (empty: cluster-wide only).
    pub fn permissions(&self, user: &UserInfo, namespace: &str) -> Permissions {
        let index = self.index();
        let mut out = Permissions::default();
        index.visit(user, namespace, |binding, _| {
            match index.rules(binding) {
                Ok(rules) => out.rules.extend(rules.iter().cloned()),
                Err(missing) => out.errors.push(missing),
            }
            true
        });
        out
    }

    /// The rules of the role that a binding in `namespace` (empty for a cluster role binding) refers to.
    ///
    /// # Errors
    ///
    /// The role does not exist; the message is upstream's.
    pub fn rules_of(&self, role_kind: &str, role_name: &str, namespace: &str) -> Result<Vec<Arc<Rule>>, String> {
        self.index().role(role_kind, role_name, namespace).map(<[_]>::to_vec)
    }
}

impl Rbac {
    /// Decides.
    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group("system:masters") {
            return Decision::Allow("system:masters may do everything".into());
        }
        let index = self.index();
        let mut allowed = None;
        let mut errors: Vec<String> = Vec::new();
        index.visit(&attributes.user, &attributes.namespace, |binding, subject| {
            match index.rules(binding) {
                Ok(rules) => {
                    if rules.iter().any(|rule| rule.allows(attributes)) {
                        allowed = Some(reason(binding, subject));
                    }
                }
                Err(missing) if errors.contains(&missing) => {}
                Err(missing) => errors.push(missing),
            }
            allowed.is_none()
        });
        match (allowed, errors.as_slice()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, [one]) => Decision::NoOpinion(format!("RBAC: {one}")),
            (None, many) => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }
}

impl Authorizer for Rbac {
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        Verdict::Now(self.authorize(attributes))
    }
}

fn reason(binding: &Binding, subject: &Subject) -> String {
    let (kind, name) = match binding.namespace.as_str() {
        "" => ("ClusterRoleBinding", binding.name.clone()),
        namespace => ("RoleBinding", format!("{}/{namespace}", binding.name)),
    };
    format!("RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}", binding.role_kind, binding.role_name)
}
