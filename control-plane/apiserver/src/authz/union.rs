//! Several authorizers as one.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Attributes, Authorizer, Decision};

/// Asks each; the first that does not abstain decides. If all abstain, their reasons are the reason; and if one could not
/// be asked, that is.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// Asks `authorizers` in this order.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

/// Why nobody has decided yet.
#[derive(Default)]
struct Undecided {
    reasons: Vec<String>,
    failed: Vec<String>,
}

impl Undecided {
    /// Takes in what one said; the decision, if it is one.
    fn take(&mut self, said: Decision) -> Option<Decision> {
        match said {
            Decision::NoOpinion(reason) if reason.is_empty() => None,
            Decision::NoOpinion(reason) => {
                self.reasons.push(reason);
                None
            }
            Decision::Failed { why, denied: false } => {
                self.failed.push(why);
                None
            }
            decided => Some(decided),
        }
    }

    fn end(self) -> Decision {
        match self.failed.is_empty() {
            true => Decision::NoOpinion(self.reasons.join("\n")),
            false => Decision::Failed { why: self.failed.join(", "), denied: false },
        }
    }
}

impl Authorizer for Union {
    fn decide(&self, attributes: &Attributes) -> Option<Decision> {
        let mut undecided = Undecided::default();
        for authorizer in &self.0 {
            if let Some(decided) = undecided.take(authorizer.decide(attributes)?) {
                return Some(decided);
            }
        }
        Some(undecided.end())
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let mut undecided = Undecided::default();
            for authorizer in &self.0 {
                if let Some(decided) = undecided.take(authorizer.authorize(attributes).await) {
                    return decided;
                }
            }
            undecided.end()
        })
    }
}
