//! What differs from kind to kind: defaults, what create and update may set, validation with upstream's words, field
//! selectors and warnings.
//!
//! Each kind is a file with one `STRATEGY`; [`pod_spec`] holds what every kind with a pod template shares, [`checks`]
//! the vocabulary. Upstream: `pkg/registry/*/strategy.go`, `pkg/apis/*/v1/defaults.go`,
//! `pkg/apis/*/validation/validation.go`.

pub(crate) mod checks;
pub(crate) mod json;

use crate::resource::{PLAIN, Strategy};

/// The strategy of a built-in kind; [`PLAIN`] for a kind with nothing special about it.
pub fn strategy(group: &str, kind: &str) -> Strategy {
    match (group, kind) {
        _ => PLAIN,
    }
}
