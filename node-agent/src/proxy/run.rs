//! Follows the API, and keeps the maps as the world wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xebec_clock::Random;
use xebec_ebpf_loader::Error;

use super::desired::{Facts, ServiceName};
use super::model::{Model, Write};
use super::sync::ServiceMaps;
use super::views::{EndpointSlice, Service};
use super::world::{Changes, World};
use crate::api::Rest;
use crate::api::watch::{Change, follow};
use crate::dns::Names;
use crate::drain::ledger::Ledger;

/// Changes taken in before the maps are written: a bound on how long one round holds up the next.
const BATCH_LIMIT: usize = 1_024;
/// How long to wait before writing again what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// This node's address.
    pub node_address: IpAddr,
    /// Where the node's DNS server listens.
    pub dns_port: u16,
    /// The service that it answers for: `kube-system`, `kube-dns`.
    pub dns_service: (String, String),
}

/// Load balancer addresses, with the nodes that may answer for each if not any node may.
pub type LoadBalancerAddresses = BTreeMap<Ipv4Addr, Option<BTreeSet<String>>>;

/// Runs until `cancel`. What is in the maps stays there. `names` is what the DNS server answers from; `addresses` is told of load balancer addresses; `synced` turns
/// true when the maps first hold what the API says; `ledger` is told what they hold.
#[expect(clippy::too_many_arguments, reason = "one caller, and each is another part of the agent")]
pub async fn run(
    config: Config,
    rest: Rest,
    random: Random,
    maps: ServiceMaps,
    names: Names,
    addresses: watch::Sender<LoadBalancerAddresses>,
    synced: watch::Sender<bool>,
    ledger: Ledger,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let (service_sender, mut services) = mpsc::channel(BATCH_LIMIT);
    let (slice_sender, mut slices) = mpsc::channel(BATCH_LIMIT);
    let watchers = async {
        tokio::join!(
            follow::<Service>(
                rest.clone(),
                "/api/v1/services".to_owned(),
                String::new(),
                random.clone(),
                service_sender
            ),
            follow::<EndpointSlice>(
                rest.clone(),
                "/apis/discovery.k8s.io/v1/endpointslices".to_owned(),
                String::new(),
                random.clone(),
                slice_sender
            ),
        )
    };
    let mut proxy = Proxy::new(config, maps)?;
    let work = async {
        loop {
            let first = tokio::select! {
                biased;
                change = services.recv() => change.map(News::Service),
                change = slices.recv() => change.map(News::Slice),
                () = tokio::time::sleep(RETRY), if proxy.is_behind() => Some(News::Retry),
            };
            let Some(first) = first else { return };
            let mut take = |news: News| {
                match &news {
                    News::Service(change) => names.services_changed(change),
                    News::Slice(change) => {
                        names.slices_changed(change);
                        ledger.heard(change);
                    }
                    News::Retry => {}
                }
                proxy.take(news);
            };
            take(first);
            for _ in 0..BATCH_LIMIT {
                if let Ok(change) = services.try_recv() {
                    take(News::Service(change));
                } else if let Ok(change) = slices.try_recv() {
                    take(News::Slice(change));
                } else {
                    break;
                }
            }
            if proxy.update() {
                ledger.all_applied();
                synced.send_if_modified(|done| !std::mem::replace(done, true));
            }
            let wanted = proxy.world.load_balancer_addresses();
            addresses.send_if_modified(|known| {
                let changed = *known != wanted;
                if changed {
                    *known = wanted;
                }
                changed
            });
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
        _ = watchers => {}
    }
    Ok(())
}

enum News {
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Retry,
}

/// The world, the mirror of the maps, and the maps.
struct Proxy {
    world: World,
    model: Model,
    maps: ServiceMaps,
    /// Both lists must be known before anything is removed.
    listed: (bool, bool),
    reconciled: bool,
    /// Writes that could not be carried out, in order.
    pending: Vec<Write>,
}

impl Proxy {
    fn new(config: Config, maps: ServiceMaps) -> Result<Self, Error> {
        let (namespace, name) = config.dns_service;
        let facts = Facts {
            node: config.node_name,
            dns_service: ServiceName { namespace, name },
            dns_server: (config.node_address, config.dns_port),
        };
        let (model, pending) = Model::adopt(maps.contents()?);
        Ok(Self { world: World::new(facts), model, maps, listed: (false, false), reconciled: false, pending })
    }

    fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn take(&mut self, news: News) {
        match news {
            News::Service(Change::All(all)) => {
                self.world.replace_services(all);
                self.listed.0 = true;
            }
            News::Service(Change::Put(service)) => self.world.put_service(service),
            News::Service(Change::Gone(service)) => {
                self.world.remove_service(&service.metadata.namespace, &service.metadata.name);
            }
            News::Slice(Change::All(all)) => {
                self.world.replace_slices(all);
                self.listed.1 = true;
            }
            News::Slice(Change::Put(slice)) => self.world.put_slice(slice),
            News::Slice(Change::Gone(slice)) => {
                self.world.remove_slice(&slice.metadata.namespace, &slice.metadata.name);
            }
            News::Retry => {}
        }
    }

    /// Brings the maps up to date; whether they are.
    fn update(&mut self) -> bool {
        if self.listed != (true, true) {
            return false;
        }
        let mut changes: Changes = self.world.changes();
        if !self.reconciled {
            // What an earlier agent left, and nobody wants any more.
            for key in self.model.frontends() {
                if self.world.target(key).is_none() {
                    changes.entry(*key).or_insert(None);
                }
            }
            self.reconciled = true;
        }
        self.pending.extend(self.model.apply(changes));
        let mut done = 0;
        for write in &self.pending {
            if let Err(error) = self.maps.write(write) {
                tracing::warn!(%error, "cannot update the service maps; trying again");
                break;
            }
            done += 1;
        }
        self.pending.drain(..done);
        self.pending.is_empty()
    }
}
