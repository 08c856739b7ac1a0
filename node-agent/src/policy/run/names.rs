//! The part of names: what DNS hears becomes addresses that rules allow, and stays for as long as somebody needs it.

use tokio::sync::oneshot;
use xebec_ebpf_loader::kernel_clock_s;

use super::super::domains::Found;
use super::Enforcer;

impl Enforcer {
    /// Takes over what an earlier agent knew.
    pub(super) fn remember(&mut self) {
        let now_s = kernel_clock_s();
        match self.journal.read() {
            Ok(entries) => entries.iter().for_each(|entry| self.world.restore(entry, now_s)),
            Err(error) => tracing::warn!(%error, "what names led to is forgotten; clients look them up again"),
        }
    }

    /// A lookup, whose answer waits until the kernel lets its client reach what is in it.
    pub(super) fn hear(&mut self, found: &Found, done: oneshot::Sender<()>) {
        if self.wanted.as_ref().is_some_and(|wanted| !wanted.matches(&found.name)) {
            // The rule has gone meanwhile.
            return;
        }
        let new = self.world.learn(found, kernel_clock_s());
        // Before the answer too: an agent that starts would cut the client off.
        if !new.is_empty()
            && let Err(error) = self.journal.append(&new)
        {
            tracing::warn!(%error, "cannot note what a name led to; an agent that starts will not know it");
        }
        self.heard.push(done);
    }

    /// Tells DNS which names rules are about, once all rules are known.
    pub(super) fn want_names(&mut self) {
        if !self.knows_policies() || !std::mem::take(&mut self.names_stale) {
            return;
        }
        let patterns = self.world.patterns();
        if self.wanted.is_none() {
            // What was kept until it was known whether it matters.
            self.world.forget_unwanted();
        }
        self.lookups.want(patterns.clone());
        self.wanted = Some(patterns);
    }

    /// Forgets addresses whose time is over and to which no connection stands, and writes down the rest.
    pub(super) fn sweep(&mut self) {
        let now_s = kernel_clock_s();
        let due = self.world.learned().due(now_s);
        if !due.is_empty() {
            match self.maps.in_use(&due, now_s) {
                Ok(in_use) => self.world.forget(now_s, &in_use),
                Err(error) => {
                    tracing::warn!(%error, "cannot see which connections stand; addresses of names stay for longer");
                }
            }
        }
        if let Some(learned) = self.world.newly_learned()
            && let Err(error) = self.journal.replace(learned.entries())
        {
            tracing::warn!(%error, "cannot write down what names led to");
        }
    }
}
