//! Decisions for code that cannot wait for them: it is run again once they are there.

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Attributes, Authorizer, Decision, Verdict};

/// How many questions may have to be asked for one piece of code.
const MAX_ASKED: usize = 64;

/// What an authorizer says, to code that cannot wait.
pub struct Answers<'a> {
    authorizer: &'a dyn Authorizer,
    known: Mutex<Vec<(Attributes, Decision)>>,
    wanted: Mutex<Vec<(Attributes, BoxFuture<'a, Decision>)>>,
}

impl<'a> Answers<'a> {
    /// What `authorizer` says.
    pub fn of(authorizer: &'a dyn Authorizer) -> Self {
        Self { authorizer, known: Mutex::default(), wanted: Mutex::default() }
    }

    /// The decision; if it is not known yet, none, and it is asked for before the code is run again.
    pub fn decide(&self, attributes: &Attributes) -> Decision {
        let known = self.known.lock();
        if let Some((_, decision)) = known.iter().find(|(asked, _)| asked == attributes) {
            return decision.clone();
        }
        let asking = match self.authorizer.decide(attributes) {
            Verdict::Now(decision) => return decision,
            Verdict::Ask(asking) => asking,
        };
        let mut wanted = self.wanted.lock();
        if known.len() + wanted.len() >= MAX_ASKED {
            return Decision::Failed { why: "too many authorization checks".into(), denied: true };
        }
        wanted.push((attributes.clone(), asking));
        Decision::NoOpinion(String::new())
    }

    /// Runs `code` until all decisions are known that it needs; the last result.
    pub async fn settle<T>(&self, mut code: impl FnMut(&Self) -> T) -> T {
        loop {
            let result = code(self);
            let wanted = std::mem::take(&mut *self.wanted.lock());
            if wanted.is_empty() {
                return result;
            }
            drop(result);
            for (attributes, asking) in wanted {
                let decision = asking.await;
                self.known.lock().push((attributes, decision));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has to think about every verb but `get`.
    struct Slow;

    impl Authorizer for Slow {
        fn decide<'a>(&'a self, attributes: &Attributes) -> Verdict<'a> {
            if attributes.verb == "get" {
                return Verdict::Now(Decision::Allow("known".into()));
            }
            let no = Decision::Deny(format!("no {}", attributes.verb));
            Verdict::Ask(Box::pin(async move {
                tokio::task::yield_now().await;
                no
            }))
        }
    }

    fn verb(verb: &str) -> Attributes {
        Attributes { verb: verb.into(), ..Attributes::default() }
    }

    #[tokio::test]
    async fn code_is_run_again_with_what_was_asked_for() {
        let answers = Answers::of(&Slow);
        let mut runs = 0;
        let said = answers
            .settle(|answers| {
                runs += 1;
                let first = answers.decide(&verb("list"));
                // The second question depends on the first answer.
                let second = matches!(first, Decision::Deny(_)).then(|| answers.decide(&verb("watch")));
                (answers.decide(&verb("get")), first, second)
            })
            .await;
        let no = |verb: &str| Decision::Deny(format!("no {verb}"));
        assert_eq!(said, (Decision::Allow("known".into()), no("list"), Some(no("watch"))));
        assert_eq!(runs, 3);
    }

    #[tokio::test]
    async fn endless_questions_end() {
        let answers = Answers::of(&Slow);
        let mut number = 0;
        let said = answers
            .settle(|answers| {
                number += 1;
                (0..=number).map(|n| answers.decide(&verb(&n.to_string()))).next_back()
            })
            .await;
        assert!(matches!(said, Some(Decision::Failed { denied: true, .. })), "{said:?}");
    }
}
