//! The log writer alone, for the tests: in a cluster it is a subcommand of `xebec`.

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    std::process::exit(xebec_node_agent::logger::main(&arguments));
}
