//! Search paths, walked here instead of by the client: with `ndots:5` a pod asks for `example.com` as
//! `example.com.shop.svc.cluster.local` first, and three names more before the right one. By its address it is known
//! which namespace it is in, so the first question can be answered with what the last one would have found, as an alias.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hickory_proto::rr::Name;

/// The namespace of a pod of this node, by its address.
type NamespaceOf = dyn Fn(IpAddr) -> Option<String> + Send + Sync;

/// Where clients search. Clones share it.
#[derive(Clone)]
pub struct Clients {
    origin: Name,
    /// `svc.<zone>`, as on the wire.
    services: Arc<[u8]>,
    /// The node's own search list, which pods inherit.
    node: Arc<[Name]>,
    namespaces: Arc<OnceLock<Box<NamespaceOf>>>,
}

impl Clients {
    /// Of a cluster whose zone is `origin`; `node` is the node's own search list.
    pub fn new(origin: &Name, node: Vec<Name>) -> Self {
        let mut services = Vec::new();
        for label in std::iter::once(&b"svc"[..]).chain(origin.iter()) {
            services.push(u8::try_from(label.len()).unwrap_or(0));
            services.extend(label.to_ascii_lowercase());
        }
        services.push(0);
        Self { origin: origin.clone(), services: services.into(), node: node.into(), namespaces: Arc::default() }
    }

    /// From now on pods are known by this.
    pub fn know(&self, namespace_of: impl Fn(IpAddr) -> Option<String> + Send + Sync + 'static) {
        // Said once, when the agent starts.
        drop(self.namespaces.set(Box::new(namespace_of)));
    }

    fn namespace(&self, client: IpAddr) -> Option<String> {
        self.namespaces.get()?(client.to_canonical())
    }

    /// Whether `name` (on the wire, in lower case) is one that the client makes by the first entry of its search list.
    pub fn searches(&self, client: IpAddr, name: &[u8]) -> bool {
        let Some(rest) = name.strip_suffix(&*self.services) else { return false };
        self.namespace(client).is_some_and(|namespace| {
            let label = namespace.as_bytes();
            rest.strip_suffix(label)
                .and_then(<[u8]>::split_last)
                .is_some_and(|(length, before)| usize::from(*length) == label.len() && !before.is_empty())
        })
    }

    /// What the client would ask for next, in order, when `name` does not exist: the last is the name as it was meant.
    pub fn next(&self, client: IpAddr, name: &Name) -> Vec<Name> {
        let Some(namespace) = self.namespace(client) else { return Vec::new() };
        let Ok(services) = self.origin.prepend_label("svc") else { return Vec::new() };
        let Ok(own) = services.prepend_label(namespace.as_str()) else { return Vec::new() };
        if !own.zone_of(name) || name.num_labels() <= own.num_labels() {
            return Vec::new();
        }
        let meant = usize::from(name.num_labels() - own.num_labels());
        let Ok(mut meant) = Name::from_labels(name.iter().take(meant)) else { return Vec::new() };
        meant.set_fqdn(false);
        let searched = [&services, &self.origin].into_iter().chain(self.node.iter());
        let mut all: Vec<Name> = searched.filter_map(|domain| meant.clone().append_domain(domain).ok()).collect();
        meant.set_fqdn(true);
        all.push(meant);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_utf8(text).unwrap()
    }

    #[test]
    fn a_search_goes_on_as_the_client_would() {
        let clients = Clients::new(&name("cluster.local."), vec![name("lan.")]);
        let (pod, other): (IpAddr, IpAddr) = ("10.244.1.5".parse().unwrap(), "10.244.1.6".parse().unwrap());
        let wire = b"\x07example\x03com\x04shop\x03svc\x07cluster\x05local\0";
        assert!(!clients.searches(pod, wire), "nobody is known yet");
        clients.know(move |ip| (ip == pod).then(|| "shop".to_owned()));
        assert!(clients.searches(pod, wire));
        assert!(!clients.searches(other, wire));
        assert!(!clients.searches(pod, b"\x04shop\x03svc\x07cluster\x05local\0"));
        assert!(!clients.searches(pod, b"\x03com\x05xshop\x03svc\x07cluster\x05local\0"));
        let next = clients.next(pod, &name("example.com.shop.svc.cluster.local."));
        let expected =
            ["example.com.svc.cluster.local.", "example.com.cluster.local.", "example.com.lan.", "example.com."];
        assert_eq!(next, expected.map(name));
        assert_eq!(clients.next(pod, &name("example.com.other.svc.cluster.local.")), Vec::<Name>::new());
        assert_eq!(clients.next(other, &name("example.com.shop.svc.cluster.local.")), Vec::<Name>::new());
    }
}
