//! What every node may do alike: upstream's ClusterRole `system:node`.

use crate::authz::rbac::Rule;
use crate::bootstrap::roles;

/// The rules of `system:node`.
pub(super) fn node_rules() -> Vec<Rule> {
    roles::node_rules()
}
