//! A Kubernetes cluster in one binary: this is the command line, a file per subcommand.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod api;
mod bench;
mod check;
mod cluster;
mod down;
mod exec;
mod flows;
mod image;
mod kubeconfig;
mod kubelets;
mod logging;
mod memory;
mod names;
mod node_init;
mod progress;
mod renewing;
mod server;
mod service;
mod status;
mod supervise;
mod token;
mod trace;
mod up;

#[derive(Debug, Parser)]
#[command(name = "xebec", version, about, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    // The most there is to say.
    Server(Box<server::config::Args>),
    Agent(Box<agent::config::Args>),
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Kubeconfig(kubeconfig::Args),
    Exec(exec::Args),
    Check(check::Args),
    Flows(flows::Args),
    Service(service::Args),
    Image(image::Args),
    Token(token::Args),
    Trace(trace::Args),
    Bench(bench::Args),
    /// The load of `xebec bench net`, on a node (started by it)
    #[command(hide = true)]
    BenchLoad(bench::net::load::Args),
    /// Keeps a cluster on this machine running (started by `up`)
    #[command(hide = true)]
    Supervise {
        /// The cluster's name
        #[arg(long)]
        name: cluster::Name,
    },
    /// Process 1 of a node of a cluster on this machine (started by the supervisor)
    #[command(hide = true)]
    NodeInit {
        /// The node's name, for lists of processes
        node: String,
    },
    /// A node of a cluster on this machine that is a machine itself (started by the supervisor)
    #[command(hide = true)]
    Machine(cluster::machine::keeper::Args),
    /// Runs commands in the machine that it is started in (started by its process 1)
    #[command(hide = true)]
    Commands(cluster::machine::commands::server::Args),
    /// Writes what a machine's kernel runs first
    #[command(hide = true)]
    Initramfs(cluster::machine::initramfs::Args),
}

fn main() -> ExitCode {
    if let Some(code) = called_by_another_name() {
        return code;
    }
    let command = Cli::parse().command;
    logging::init(match command {
        Cmd::Server(_)
        | Cmd::Agent(_)
        | Cmd::Supervise { .. }
        | Cmd::NodeInit { .. }
        | Cmd::Machine(_)
        | Cmd::Commands(_) => "info,kube_client=off,hickory_server=warn",
        _ => "warn,kube_client=off",
    });
    if matches!(command, Cmd::Server(_) | Cmd::Agent(_) | Cmd::Bench(_) | Cmd::Supervise { .. }) {
        memory::give_back();
    }
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match command {
        Cmd::Agent(args) => done(agent::main(*args)),
        Cmd::Server(args) => done(server::main(*args)),
        Cmd::Up(args) => done(up::main(&args)),
        Cmd::Down(args) => done(down::main(&args)),
        Cmd::Status(args) => done(status::main(&args)),
        Cmd::Kubeconfig(args) => done(kubeconfig::main(&args)),
        Cmd::Exec(args) => exec::main(&args),
        Cmd::Check(args) => check::main(&args),
        Cmd::Flows(args) => done(flows::main(&args)),
        Cmd::Service(args) => service::main(&args),
        Cmd::Image(args) => done(image::main(&args)),
        Cmd::Token(args) => done(token::main(&args)),
        Cmd::Trace(args) => trace::main(&args),
        Cmd::Bench(args) => done(bench::main(&args)),
        Cmd::BenchLoad(args) => done(bench::net::load::main(&args)),
        Cmd::Supervise { name } => supervise::main(&name),
        Cmd::NodeInit { .. } => node_init::main(),
        Cmd::Machine(args) => done(cluster::machine::keeper::main(&args)),
        Cmd::Commands(args) => done(cluster::machine::commands::server::main(&args)),
        Cmd::Initramfs(args) => done(cluster::machine::initramfs::main(&args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xebec: {}", describe(&error));
        ExitCode::FAILURE
    })
}

/// What containerd and container runtimes call: the CNI plugin by the program's name, the containers' loggers by a first
/// argument. Neither knows this command line's options.
fn called_by_another_name() -> Option<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|n| n == "xebec-cni") {
        return Some(xebec_cni::plugin::main());
    }
    let verb = arguments.get(1)?.to_str()?;
    if !xebec_node_agent::logger::VERBS.contains(&verb) {
        return None;
    }
    let code = xebec_node_agent::logger::main(&arguments[1..]);
    Some(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// An error and its causes, each said once: some errors repeat their causes in their own words.
fn describe(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow!("no room").context("cannot write: no room").context("cannot start");
        assert_eq!(super::describe(&error), "cannot start: cannot write: no room");
    }
}
