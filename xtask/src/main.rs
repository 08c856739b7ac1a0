//! Chores of the repository: `cargo run -p xtask -- CHORE`.

mod facts;
mod protobuf;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: xtask CHORE
  facts DEFINITIONS.json   print control-plane/schema/data/types.txt, from the `_definitions.json` of the PyPI package
                           kubernetes-validate
  protobuf API APIMACHINERY TYPES.txt
                           print control-plane/schema/data/protobuf.txt, from directories with the Go sources of
                           k8s.io/api and k8s.io/apimachinery
  tidy                     check the house rules";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["facts", path] => facts::print(path),
        ["protobuf", api, apimachinery, types] => protobuf::print(api, apimachinery, types),
        ["tidy"] => tidy::check(),
        _ => bail!("{USAGE}"),
    }
}
