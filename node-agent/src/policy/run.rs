//! Follows the API, and keeps the maps as the policies want them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;

use super::admin::{AdminPolicy, NodeView, Tier};
use super::domains::Patterns;
use super::ear::{Known, Lookups, Message};
use super::journal::Journal;
use super::sync::{PolicyMaps, Subjects, WriteError};
use super::views::{Namespace, NetworkPolicy, Pod};
use super::world::{World, Write};
use crate::api::Rest;
use crate::api::watch::{Change, follow};
use crate::network::PodIdentity;

mod names;

/// Changes taken in before the maps are written: a bound on how long one round holds up the next.
const BATCH_LIMIT: usize = 1_024;
/// How long to wait before writing again what could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// How long a pod waits for its policies; its worker asks again later.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look for addresses of names that nobody needs any more.
const SWEEP: Duration = Duration::from_secs(30);
/// Pods that may wait at once; more are told to come again.
const WAITING_MAX: usize = 1_024;

/// Where a pod waits until its policies are in force.
#[derive(Clone, Debug)]
pub struct Gate(mpsc::Sender<Question>);

#[derive(Debug)]
struct Question {
    namespace: String,
    uid: String,
    answer: oneshot::Sender<()>,
}

impl Gate {
    /// A gate, and what [`run`] answers it by.
    pub fn new() -> (Self, Questions) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), Questions(receiver))
    }

    /// Waits until the rules for the pod are in the kernel and [`Subjects`] was told which they are.
    ///
    /// # Errors
    /// If they are not known for too long.
    pub async fn pass(&self, pod: &PodIdentity) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let question = Question { namespace: pod.namespace.clone(), uid: pod.uid.clone(), answer };
        let ask = async {
            self.0.send(question).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err("the node is shutting down".to_owned()),
            Err(_) => Err("the network policies for it are not known yet: is the API server reachable?".to_owned()),
        }
    }
}

/// What pods ask.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Question>);

/// Runs until `cancel`. What is in the maps stays there.
///
/// # Errors
/// If the maps cannot be read.
pub async fn run(
    node: String,
    rest: Rest,
    random: Random,
    maps: PolicyMaps,
    pods: Arc<dyn Subjects>,
    (mut questions, lookups): (Questions, Lookups),
    cancel: CancellationToken,
) -> Result<(), WriteError> {
    let (policy_sender, mut policies) = mpsc::channel(BATCH_LIMIT);
    let (namespace_sender, mut namespaces) = mpsc::channel(BATCH_LIMIT);
    let (admin_sender, mut admins) = mpsc::channel(BATCH_LIMIT);
    let (baseline_sender, mut baselines) = mpsc::channel(BATCH_LIMIT);
    let admin_watch = |tier: Tier, sender| {
        follow::<AdminPolicy>(rest.clone(), tier.path().to_owned(), String::new(), random.clone(), sender)
    };
    let path = "/apis/networking.k8s.io/v1/networkpolicies".to_owned();
    let watchers = async {
        tokio::join!(
            follow::<NetworkPolicy>(rest.clone(), path, String::new(), random.clone(), policy_sender),
            follow::<Namespace>(
                rest.clone(),
                "/api/v1/namespaces".to_owned(),
                String::new(),
                random.clone(),
                namespace_sender
            ),
            admin_watch(Tier::Admin, admin_sender),
            admin_watch(Tier::Baseline, baseline_sender),
        )
    };
    let mut enforcer = Enforcer::new(&node, maps, pods, lookups);
    enforcer.remember();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            let first = tokio::select! {
                biased;
                change = policies.recv() => change.map(News::Policy),
                change = namespaces.recv() => change.map(News::Namespace),
                change = admins.recv() => change.map(|change| News::Admin(Tier::Admin, change)),
                change = baselines.recv() => change.map(|change| News::Admin(Tier::Baseline, change)),
                Some(change) = next(&mut enforcer.node_watch) => Some(News::Node(change)),
                Some(change) = next(&mut enforcer.pod_watch) => Some(News::Pod(change)),
                question = questions.0.recv() => question.map(News::Question),
                Some(message) = enforcer.lookups.receiver.recv() => Some(News::Name(message)),
                _ = sweep.tick() => Some(News::Sweep),
                () = tokio::time::sleep(RETRY), if enforcer.is_behind() => Some(News::Retry),
            };
            let Some(first) = first else { return Ok(()) };
            enforcer.take(first);
            for _ in 0..BATCH_LIMIT {
                if let Ok(change) = policies.try_recv() {
                    enforcer.take(News::Policy(change));
                } else if let Ok(change) = namespaces.try_recv() {
                    enforcer.take(News::Namespace(change));
                } else if let Ok(change) = admins.try_recv() {
                    enforcer.take(News::Admin(Tier::Admin, change));
                } else if let Ok(change) = baselines.try_recv() {
                    enforcer.take(News::Admin(Tier::Baseline, change));
                } else if let Some(Ok(change)) = enforcer.node_watch.as_mut().map(mpsc::Receiver::try_recv) {
                    enforcer.take(News::Node(change));
                } else if let Some(Ok(change)) = enforcer.pod_watch.as_mut().map(mpsc::Receiver::try_recv) {
                    enforcer.take(News::Pod(change));
                } else if let Ok(message) = enforcer.lookups.receiver.try_recv() {
                    enforcer.take(News::Name(message));
                } else {
                    break;
                }
            }
            enforcer.watch_pods(&rest, &random);
            enforcer.watch_nodes(&rest, &random);
            enforcer.update()?;
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        result = work => result,
        _ = watchers => Ok(()),
    }
}

/// The next change; never, while nobody watches.
async fn next<T>(watch: &mut Option<mpsc::Receiver<Change<T>>>) -> Option<Change<T>> {
    match watch {
        Some(watch) => watch.recv().await,
        None => std::future::pending().await,
    }
}

enum News {
    Policy(Change<NetworkPolicy>),
    Namespace(Change<Namespace>),
    Pod(Change<Pod>),
    Admin(Tier, Change<AdminPolicy>),
    Node(Change<NodeView>),
    Question(Question),
    Name(Message),
    Sweep,
    Retry,
}

/// The world, the maps, and who waits.
struct Enforcer {
    world: World,
    maps: PolicyMaps,
    pods: Arc<dyn Subjects>,
    /// All pods of the cluster are followed only where there is a policy.
    pod_watch: Option<mpsc::Receiver<Change<Pod>>>,
    /// All nodes are followed only where a policy tells them apart.
    node_watch: Option<mpsc::Receiver<Change<NodeView>>>,
    nodes_listed: bool,
    admins_listed: BTreeSet<Tier>,
    policies_listed: bool,
    namespaces_listed: bool,
    pods_listed: bool,
    reconciled: bool,
    /// Writes that could not be carried out, in order.
    pending: Vec<Write>,
    waiting: Vec<Question>,
    /// What DNS has heard.
    lookups: Lookups,
    /// The names that DNS was asked to tell of; none while policies are not known.
    wanted: Option<Patterns>,
    /// Whether a policy that may be about names has come or gone since.
    names_stale: bool,
    journal: Journal,
    /// Whose answers wait until the kernel knows what is in them.
    heard: Vec<oneshot::Sender<()>>,
}

impl Enforcer {
    fn new(node: &str, maps: PolicyMaps, pods: Arc<dyn Subjects>, lookups: Lookups) -> Self {
        Self {
            world: World::new(node),
            maps,
            pods,
            pod_watch: None,
            node_watch: None,
            nodes_listed: false,
            admins_listed: BTreeSet::new(),
            policies_listed: false,
            namespaces_listed: false,
            pods_listed: false,
            reconciled: false,
            pending: Vec::new(),
            waiting: Vec::new(),
            journal: Journal::new(lookups.journal.clone()),
            lookups,
            wanted: None,
            names_stale: true,
            heard: Vec::new(),
        }
    }

    fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn take(&mut self, news: News) {
        self.names_stale |= matches!(news, News::Admin(..));
        let world = &mut self.world;
        match news {
            News::Policy(Change::All(all)) => {
                world.replace_policies(&all);
                self.policies_listed = true;
            }
            News::Policy(Change::Put(policy)) => world.put_policy(&policy),
            News::Policy(Change::Gone(policy)) => {
                world.remove_policy(&policy.metadata.namespace, &policy.metadata.name);
            }
            News::Namespace(Change::All(all)) => {
                world.replace_namespaces(&all);
                self.namespaces_listed = true;
            }
            News::Namespace(Change::Put(namespace)) => world.put_namespace(&namespace),
            News::Namespace(Change::Gone(namespace)) => world.remove_namespace(&namespace.metadata.name),
            News::Pod(Change::All(all)) => {
                world.replace_pods(&all);
                self.pods_listed = true;
            }
            News::Pod(Change::Put(pod)) => world.put_pod(&pod),
            News::Pod(Change::Gone(pod)) => world.remove_pod(&pod.metadata.namespace, &pod.metadata.name),
            News::Admin(tier, Change::All(all)) => {
                world.replace_admins(tier, &all);
                self.admins_listed.insert(tier);
            }
            News::Admin(tier, Change::Put(policy)) => world.put_admin(tier, &policy),
            News::Admin(tier, Change::Gone(policy)) => world.remove_admin(tier, &policy.metadata.name),
            News::Node(Change::All(all)) => {
                world.replace_nodes(&all);
                self.nodes_listed = true;
            }
            News::Node(Change::Put(node)) => world.put_node(&node),
            News::Node(Change::Gone(node)) => world.remove_node(&node.metadata.name),
            News::Question(question) => self.waiting.push(question),
            News::Name(Message::Heard(found, done)) => self.hear(&found, done),
            News::Name(Message::Asked(of, answer)) => {
                let learned = world.learned();
                let names = of.map(|of| learned.names_of(&of.into()).map(str::to_owned).collect()).unwrap_or_default();
                // Who gave up is not there to hear it.
                let _ = answer.send(Known { names, pairs: learned.len(), refused: learned.refused() });
            }
            News::Sweep => self.sweep(),
            News::Retry => {}
        }
    }

    /// Begins to follow pods, or stops.
    fn watch_pods(&mut self, rest: &Rest, random: &Random) {
        match (&self.pod_watch, self.world.has_policies()) {
            (None, true) => {
                let (sender, receiver) = mpsc::channel(BATCH_LIMIT);
                // Ends when the receiver is dropped.
                tokio::spawn(follow::<Pod>(
                    rest.clone(),
                    "/api/v1/pods".to_owned(),
                    String::new(),
                    random.clone(),
                    sender,
                ));
                self.pod_watch = Some(receiver);
            }
            (Some(_), false) => {
                self.pod_watch = None;
                self.pods_listed = false;
            }
            _ => {}
        }
    }

    /// Begins to follow nodes, or stops.
    fn watch_nodes(&mut self, rest: &Rest, random: &Random) {
        match (&self.node_watch, self.world.is_about_nodes()) {
            (None, true) => {
                let (sender, receiver) = mpsc::channel(BATCH_LIMIT);
                let path = "/api/v1/nodes".to_owned();
                // Ends when the receiver is dropped.
                tokio::spawn(follow::<NodeView>(rest.clone(), path, String::new(), random.clone(), sender));
                self.node_watch = Some(receiver);
            }
            (Some(_), false) => {
                self.node_watch = None;
                self.nodes_listed = false;
                self.world.replace_nodes(&[]);
            }
            _ => {}
        }
    }

    /// Whether all policies are known.
    fn knows_policies(&self) -> bool {
        self.policies_listed && self.admins_listed.len() == 2
    }

    /// Whether the world is known well enough to say what is allowed.
    fn knows_enough(&self) -> bool {
        self.knows_policies()
            && self.namespaces_listed
            && (self.pods_listed || !self.world.has_policies())
            && (self.nodes_listed || !self.world.is_about_nodes())
    }

    fn update(&mut self) -> Result<(), WriteError> {
        self.want_names();
        if self.knows_enough() {
            self.pending.extend(self.world.changes());
            if !self.reconciled {
                // What an earlier agent left says the same by the same numbers, where nothing has changed.
                self.pending = self.maps.differences(self.world.tables(), &*self.pods)?;
                self.reconciled = true;
            }
            if !self.world.has_policies() {
                // After the pods were told that nothing judges them.
                self.world.replace_pods(&[]);
                self.pending.extend(self.world.changes());
            }
            self.write();
        }
        self.answer();
        Ok(())
    }

    fn write(&mut self) {
        let mut done = 0;
        for write in &self.pending {
            if let Err(error) = self.maps.write(write, &*self.pods) {
                tracing::warn!(%error, "cannot update the policy maps; trying again");
                break;
            }
            done += 1;
        }
        self.pending.drain(..done);
    }

    /// Lets pods in whose rules are in the maps, and answers out whose addresses are.
    fn answer(&mut self) {
        if !self.knows_policies() {
            return;
        }
        let ready = self.knows_enough() && self.pending.is_empty();
        if ready {
            // Who gave up is not there to hear it.
            for done in self.heard.drain(..) {
                let _ = done.send(());
            }
        } else {
            self.heard.retain(|done| !done.is_closed());
        }
        for question in std::mem::take(&mut self.waiting) {
            let known =
                !self.world.concerns(&question.namespace) || (ready && self.world.sets_of(&question.uid).is_some());
            if known {
                // Who gave up is not there to hear it.
                let _ = question.answer.send(());
            } else if !question.answer.is_closed() {
                self.waiting.push(question);
            }
        }
    }
}
