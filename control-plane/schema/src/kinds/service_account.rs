//! Service accounts: nothing of theirs is checked but their metadata.

use crate::resource::{PLAIN, Strategy};

pub(super) const STRATEGY: Strategy = PLAIN;
