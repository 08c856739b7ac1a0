//! The life cycle on a real cluster: three nodes on this machine, driven by the real kubectl.
//!
//! Arguments are those of `cargo test`. The tests share one cluster, each in a namespace of its own; those that kill
//! parts of it run one by one after the others.

mod admission;
mod api;
mod apply;
mod autoscaling;
mod config;
mod controllers;
mod crds;
mod datapath;
mod debug;
mod devices;
mod domains;
mod drain;
mod dual_stack;
mod families;
mod harness;
mod helm;
mod image_volumes;
mod ipv6;
mod nodes;
mod outage;
mod podspec;
mod policy;
mod pools;
mod pressure;
mod projections;
mod services;
mod sight;
mod soak;
mod storage;
mod upkeep;
mod webhooks;
mod workloads;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use harness::{Cluster, Result};
use libtest_mimic::{Arguments, Conclusion, Trial};

type Test = fn(&Arc<Cluster>) -> Result;

macro_rules! tests {
    ($($module:ident :: { $($name:ident),* $(,)? }),* $(,)?) => {
        vec![$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Test)),*),*]
    };
}

/// Those that leave the cluster alone.
fn side_by_side() -> Vec<(&'static str, Test)> {
    tests! {
        workloads::{
            a_deployment_lives, a_bad_rollout_harms_nobody, a_rolling_update_keeps_its_bounds, what_dies_comes_back,
            a_crashing_container_backs_off, restart_policies, a_job_runs_to_its_end, logs_exec_attach_and_forward,
            images_are_pulled,
        },
        services::{
            cluster_ip, endpoints_by_hand, endpoints_follow_readiness, from_outside, no_packet_filter_rules, dns, pods_reach_pods,
            pods_reach_the_outside_as_their_node,
        },
        policy::{ingress_is_judged, egress_is_judged, drops_are_seen, administrators_decide},
        pools::{pools_are_objects, pools_have_nodes},
        sight::{packets_are_traced, connections_are_timed},
        datapath::{services_are_objects, flows_are_objects},
        config::{
            environment_and_files, a_missing_config_map_is_reported, limits_are_enforced, probes,
            termination_is_graceful, the_service_account_token_works,
        },
        admission::{quotas_hold, pods_keep_to_their_namespaces_standard},
        devices::{a_pod_gets_a_device},
        debug::{a_pod_is_debugged, a_node_is_debugged, a_running_pod_is_resized},
        podspec::{
            who_a_container_is, pods_that_the_node_refuses, names_and_last_words, sidecars_start_first_and_stop_last,
        },
        controllers::{a_stateful_set_lives, a_daemon_set_lives, a_cron_job_runs},
        storage::{a_stateful_set_keeps_its_data, a_volume_is_found},
        image_volumes::{an_image_is_a_volume},
        pressure::{what_fills_the_disk_has_to_go},
        projections::{trust_bundles_and_certificates},
        autoscaling::{busy_pods_become_more},
        webhooks::{a_webhook_in_a_pod},
        upkeep::{a_secret_gets_its_accounts_token, what_is_stored_is_migrated, policies_are_checked},
        api::{
            verbs, tables, watching, wrong_input_is_refused, namespaces_go_with_their_contents,
            nobody_writes_without_a_name, roles_decide,
        },
        apply::{server_side_apply, from_client_side_to_server_side},
        helm::{a_chart_lives},
    }
}

/// Those that take nodes away or kill what others use.
fn one_by_one() -> Vec<(&'static str, Test)> {
    tests! {
        // `kubectl get all` of another test would ask for a custom resource that is gone.
        crds::{custom_resources_live},
        drain::{no_request_is_lost},
        // It says who is asked for names outside.
        domains::{names_are_allowed},
        outage::{connections_outlive_agents_and_the_server},
        soak::{nothing_is_left},
        dual_stack::{pods_and_services_have_both_families, ipv6_comes_first},
        pressure::{a_node_that_is_short_sends_pods_away},
        ipv6::{a_cluster_without_ipv4},
        nodes::{
            pods_are_placed, cordon_taint_and_drain, the_agent_comes_back, containerd_comes_back,
            the_server_comes_back, a_node_crashes_and_comes_back, pods_leave_a_dead_node,
            pods_reach_pods_through_a_tunnel,
        },
    }
}

fn trials(tests: Vec<(&'static str, Test)>, cluster: &Arc<OnceLock<Arc<Cluster>>>) -> Vec<Trial> {
    let trial = |(name, test): (&'static str, Test)| {
        let cluster = cluster.clone();
        Trial::test(name, move || {
            let cluster = cluster.get().ok_or("the cluster did not start")?;
            test(cluster).map_err(Into::into)
        })
    };
    tests.into_iter().map(trial).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let shared = Arc::new(OnceLock::new());
    if arguments.list {
        let mut all = side_by_side();
        all.extend(one_by_one());
        return libtest_mimic::run(&arguments, trials(all, &shared)).exit_code();
    }
    match Cluster::start() {
        Ok(cluster) => {
            let _ = shared.set(Arc::new(cluster));
        }
        Err(error) => {
            eprintln!("the cluster did not start: {error}");
            return ExitCode::FAILURE;
        }
    }
    // Two cores: a few at once keep them busy, more only get in each other's way.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let first: Conclusion = libtest_mimic::run(&arguments, trials(side_by_side(), &shared));
    arguments.test_threads = Some(1);
    let second = libtest_mimic::run(&arguments, trials(one_by_one(), &shared));
    // Dropped here, not at exit: a static would never be.
    drop(shared);
    if first.has_failed() || second.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
