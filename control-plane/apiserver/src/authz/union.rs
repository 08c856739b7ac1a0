//! Several authorizers as one.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Attributes, Authorizer, Decision, Verdict};

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
    fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
        let mut undecided = Undecided::default();
        for (at, authorizer) in self.0.iter().enumerate() {
            match authorizer.decide(attributes) {
                Verdict::Now(said) => {
                    if let Some(decided) = undecided.take(said) {
                        return Verdict::Now(decided);
                    }
                }
                Verdict::Ask(asking) => {
                    let (rest, attributes) = (&self.0[at + 1..], attributes.clone());
                    return Verdict::Ask(Box::pin(go_on(undecided, asking, rest, attributes)));
                }
            }
        }
        Verdict::Now(undecided.end())
    }
}

/// Waits for what somebody says who has to be asked, and then asks the rest.
async fn go_on(
    mut undecided: Undecided,
    asking: BoxFuture<'_, Decision>,
    rest: &[Arc<dyn Authorizer>],
    attributes: Attributes,
) -> Decision {
    if let Some(decided) = undecided.take(asking.await) {
        return decided;
    }
    for authorizer in rest {
        if let Some(decided) = undecided.take(authorizer.authorize(&attributes).await) {
            return decided;
        }
    }
    undecided.end()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is called, and then has to ask somebody who knows nothing, or knows at once.
    struct Counting {
        asks: bool,
        called: AtomicUsize,
    }

    impl Authorizer for Counting {
        fn decide<'a>(&'a self, _: &Attributes) -> Verdict<'a> {
            self.called.fetch_add(1, Ordering::Relaxed);
            let said = Decision::NoOpinion("no idea".into());
            if self.asks { Verdict::Ask(Box::pin(std::future::ready(said))) } else { Verdict::Now(said) }
        }
    }

    #[tokio::test]
    async fn each_is_called_once() {
        let all = [false, true, false, true].map(|asks| Arc::new(Counting { asks, called: AtomicUsize::new(0) }));
        let union = Union::new(all.iter().map(|one| one.clone() as Arc<dyn Authorizer>).collect());
        let union: Arc<dyn Authorizer> = Arc::new(union);
        let decision = union.authorize(&Attributes::default()).await;
        assert_eq!(decision, Decision::NoOpinion(["no idea"; 4].join("\n")));
        assert!(all.iter().all(|one| one.called.load(Ordering::Relaxed) == 1));
    }
}
