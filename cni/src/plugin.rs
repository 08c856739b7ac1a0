//! The CNI specification 1.1: commands by environment variables and standard input, results as JSON.
//!
//! Each step of ADD can be done again, and DEL undoes them in the reverse order, the lease last: whenever the plugin is
//! killed, ADD completes what is there, and DEL or GC removes it.

mod config;
mod failure;
mod success;
mod version;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::config::{Environment, Network, owner};
use self::failure::{Failure, code};
use self::success::{Interface, Success};
use self::version::{NEWEST, SUPPORTED, Version};
use crate::connect::{self, Connection, GATEWAY, v6};
use crate::ipam::Pool;
use crate::netlink::Netlink;
use crate::sysctl;

/// Of pods, where neither the configuration nor the default route's interface says.
const MTU_DEFAULT: u32 = 1_500;

/// The plugin's entry: `xebec` invoked as `xebec-cni`.
pub fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let result = match read {
        Ok(_) => run(&|name| std::env::var(name).ok(), &input),
        Err(error) => Err(Failure::new(code::IO, format!("cannot read the configuration: {error}"))),
    };
    let (output, exit) = match result {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(asked_version(&input)), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{output}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The version that the runtime speaks, as far as it is known here.
fn asked_version(input: &str) -> &'static str {
    let config = serde_json::from_str::<Value>(input).unwrap_or_default();
    Version::of(&config).map_or(NEWEST, Version::text)
}

/// Carries out one command; the result to print, if it has one.
fn run(variable: &dyn Fn(&str) -> Option<String>, input: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": asked_version(input), "supportedVersions": SUPPORTED })));
    }
    let network = Network::parse(input)?;
    let pool = Pool::new(&network.leases, network.subnet);
    match command.as_str() {
        "ADD" => add(&network, &pool, &Environment::read(variable)?).map(Some),
        "DEL" => delete(&pool, &Environment::read(variable)?).map(|()| None),
        "CHECK" => {
            network.version.allows("CHECK", Version::CHECK)?;
            check(&network, &pool, &Environment::read(variable)?).map(|()| None)
        }
        "GC" => {
            network.version.allows("GC", Version::GC)?;
            collect(&network, &pool).map(|()| None)
        }
        "STATUS" => {
            network.version.allows("STATUS", Version::GC)?;
            status(&pool).map(|()| None)
        }
        _ => Err(Failure::new(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {command:?} is not known"))),
    }
}

/// The largest packet of pods: as the node's own.
fn mtu(network: &Network) -> Result<u32, Failure> {
    if let Some(mtu) = network.mtu {
        return Ok(mtu);
    }
    let mut netlink = Netlink::open()?;
    let Some(route) = netlink.default_route()? else { return Ok(MTU_DEFAULT) };
    Ok(netlink.links()?.iter().find(|link| link.index == route.interface).map_or(MTU_DEFAULT, |link| link.mtu))
}

fn connection<'a>(
    network: &Network,
    environment: &'a Environment,
    host_interface: &'a str,
    address: Ipv4Addr,
    mtu: u32,
) -> Result<Connection<'a>, Failure> {
    let pod_interface = &environment.interface;
    let (netns, node) = (environment.netns()?, network.node_ip);
    Ok(Connection { host_interface, pod_interface, netns, address, has_v4: true, mtu, node })
}

fn add(network: &Network, pool: &Pool, environment: &Environment) -> Result<Value, Failure> {
    let netns = environment.netns()?;
    sysctl::prepare_node()?;
    let owner = environment.owner();
    let had = pool.find(&owner)?.is_some();
    let address = pool.lease(&owner)?;
    let host_interface = connect::host_interface(&owner);
    let mtu = mtu(network)?;
    let mut addresses = vec![(IpAddr::V4(address), IpAddr::V4(GATEWAY))];
    let connect = || {
        let connection = connection(network, environment, &host_interface, address, mtu)?;
        let connected = connection.connect()?;
        if let Some(range) = network.subnet6 {
            let second = pool.paired(address, range);
            v6::connect(&connection, second, None)?;
            addresses.push((IpAddr::V6(second), IpAddr::V6(v6::GATEWAY)));
        }
        Ok(connected)
    };
    let connected: Result<connect::Connected, Failure> = { connect }();
    let connected = connected.inspect_err(|_| {
        if !had {
            // The runtime may never call DEL after a failed ADD. Should this fail too, GC finds it.
            let _ = connect::disconnect(&host_interface);
            let _ = pool.release(&owner);
        }
    })?;
    let sandbox = netns.display().to_string();
    let success = Success {
        interfaces: [
            Interface { name: &host_interface, mac: connected.host_mac, sandbox: "" },
            Interface { name: &environment.interface, mac: connected.pod_mac, sandbox: &sandbox },
        ],
        addresses,
        mtu,
    };
    Ok(success.to_json(network.version, network.previous.as_ref()))
}

fn delete(pool: &Pool, environment: &Environment) -> Result<(), Failure> {
    let owner = environment.owner();
    connect::disconnect(&connect::host_interface(&owner))?;
    pool.release(&owner)?;
    Ok(())
}

fn check(network: &Network, pool: &Pool, environment: &Environment) -> Result<(), Failure> {
    let damaged = |message: String| Failure::new(code::DAMAGED, message);
    let owner = environment.owner();
    let previous = network.previous.as_ref().ok_or_else(|| {
        Failure::new(code::INVALID_CONFIG, "CHECK needs prevResult: the result of the ADD that is to be checked")
    })?;
    let address = pool.find(&owner)?.ok_or_else(|| damaged(format!("{owner} has no address")))?;
    let told = previous["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    if !told.filter_map(|text| text.split('/').next()).any(|text| text.parse() == Ok(address)) {
        return Err(damaged(format!("{owner} has the address {address}, which prevResult does not name")));
    }
    let host_interface = connect::host_interface(&owner);
    let connection = connection(network, environment, &host_interface, address, mtu(network)?)?;
    connection.check()?;
    if let Some(range) = network.subnet6 {
        v6::check(&connection, pool.paired(address, range))?;
    }
    Ok(())
}

/// Goes on after a failure: what can be removed is.
fn collect(network: &Network, pool: &Pool) -> Result<(), Failure> {
    let valid = network.valid_attachments.as_ref().ok_or_else(|| {
        Failure::new(code::INVALID_CONFIG, "GC needs cni.dev/valid-attachments: without it everything would be garbage")
    })?;
    let live: BTreeSet<String> = valid.iter().map(|a| owner(&a.container_id, &a.ifname)).collect();
    let mut failed = Ok(());
    for lease in pool.leases()?.iter().filter(|lease| !live.contains(&lease.owner)) {
        // The interface first: a lease without interface is found by the next collection, an interface without lease
        // by none.
        let removed = connect::disconnect(&connect::host_interface(&lease.owner)).map_err(Failure::from);
        let removed = removed.and_then(|()| pool.release(&lease.owner).map(drop).map_err(Failure::from));
        failed = failed.and(removed);
    }
    failed
}

/// Whether ADD could succeed now.
fn status(pool: &Pool) -> Result<(), Failure> {
    let unavailable = |e: &dyn std::fmt::Display| Failure::new(code::NOT_AVAILABLE, e);
    pool.probe().map_err(|e| unavailable(&e))?;
    Netlink::open().and_then(|mut netlink| netlink.links()).map_err(|e| unavailable(&e))?;
    Ok(())
}

#[cfg(test)]
mod tests;
