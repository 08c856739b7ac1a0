//! `xebec check`: whether this machine has what a node needs.

use std::path::PathBuf;
use std::process::ExitCode;

use xebec_node_agent::check::machine::ThisMachine;
use xebec_node_agent::check::report;

use crate::cluster::cgroups;

/// Looks for what a node, or a cluster on this machine, needs, and says what to do about what is missing.
///
/// Exits with 1 if something is missing that nothing can replace.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where cgroup version 2 is mounted, if not where this machine has it
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// `xebec check`.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let report = report(&ThisMachine, &args.cgroup.clone().unwrap_or_else(unified));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
        if !report.is_sufficient() {
            println!("\nThis machine lacks what a node needs: see the lines that begin with MISSING.");
        }
    }
    Ok(if report.is_sufficient() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where cgroup version 2 is mounted; where it should be, if nowhere.
pub fn unified() -> PathBuf {
    let found = cgroups::hierarchies().ok().and_then(|all| cgroups::unified(&all).map(PathBuf::from));
    found.unwrap_or_else(|| "/sys/fs/cgroup".into())
}
