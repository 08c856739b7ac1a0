//! Every decoder of what comes from outside, fed with inputs that are nearly right: those of `tests/corpus/`, cut up,
//! joined and garbled. What is checked is that they neither panic nor take long, and a few laws.
//!
//! `XEBEC_FUZZ_RUNS` says how many inputs each target gets, `XEBEC_FUZZ_SEED` which; an input that breaks a target is
//! printed, and belongs into its corpus.

mod driver;
mod targets;

use driver::fuzz;

#[test]
fn json() {
    fuzz("json", targets::json);
}

#[test]
fn yaml() {
    fuzz("yaml", targets::yaml);
}

#[test]
fn protobuf() {
    fuzz("protobuf", targets::protobuf);
}

#[test]
fn patches() {
    fuzz("patches", targets::patches);
}

#[test]
fn selectors() {
    fuzz("selectors", targets::selectors);
}

#[test]
fn managed_fields() {
    fuzz("managed_fields", targets::managed_fields);
}

#[test]
fn paths() {
    fuzz("paths", targets::paths);
}

#[test]
fn tokens() {
    fuzz("tokens", targets::tokens);
}

#[test]
fn cel() {
    fuzz("cel", targets::cel);
}

#[test]
fn configurations() {
    fuzz("configurations", targets::configurations);
}

#[test]
fn definitions() {
    fuzz("definitions", targets::definitions);
}

#[test]
fn requests() {
    let api = targets::Server::start();
    fuzz("requests", |input| api.request(input));
}
