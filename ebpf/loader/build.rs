//! Builds the eBPF programs for their own target, so that plain `cargo build` builds everything.
//!
//! The nested build needs two things that a stable toolchain lacks: `bpf-linker`, and the core library compiled for BPF
//! (`-Z build-std`, hence its source and `RUSTC_BOOTSTRAP`, both for the nested cargo only).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const SETUP: &str = "run `make setup` (scripts/setup.sh build) first";

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    let ebpf = manifest.parent().context("the crate is in a folder")?;
    for name in ["XEBEC_TOOLS", "XDG_CACHE_HOME", "HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed={}", ebpf.join("layout/src").display());

    let tools = tools();
    let linker_dir = linker_dir(&tools)?;
    let source = rust_source(&tools)?;
    // SAFETY: a build script's main has no other threads yet.
    unsafe {
        let mut path = vec![linker_dir];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        env::set_var("PATH", env::join_paths(path)?);
        env::set_var("RUSTC_BOOTSTRAP", "1");
        if let Some(source) = source {
            env::set_var("__CARGO_TESTS_ONLY_SRC_ROOT", source);
        }
        // Clippy's and others' wrappers are for the host's crates.
        for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
            env::remove_var(name);
        }
    }
    let programs = ebpf.join("programs");
    let programs = programs.to_str().context("the source path is not UTF-8")?;
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "1.95.0".to_owned());
    let package = Package { name: "xebec-ebpf-programs", root_dir: programs, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain)).context("building the eBPF programs")
}

/// Where the set-up script puts what Debian does not package.
fn tools() -> PathBuf {
    if let Some(tools) = env::var_os("XEBEC_TOOLS") {
        return tools.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_default();
    cache.join("xebec/tools")
}

/// The folder that holds `bpf-linker`.
fn linker_dir(tools: &Path) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        std::iter::once(tools.join("bin")).chain(env::split_paths(&path)).find(|d| d.join("bpf-linker").is_file());
    match found {
        Some(dir) => Ok(dir),
        None => bail!("bpf-linker is neither in {} nor in PATH: {SETUP}", tools.join("bin").display()),
    }
}

/// The core library's source, where it is not in the toolchain.
fn rust_source(tools: &Path) -> Result<Option<PathBuf>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let run = |args: &[&str]| -> Result<String> {
        let output = Command::new(&rustc).args(args).output().with_context(|| format!("running {rustc:?}"))?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let sysroot = run(&["--print", "sysroot"])?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        return Ok(None);
    }
    let version = run(&["-vV"])?;
    let version = version.lines().find_map(|l| l.strip_prefix("release: ")).context("rustc -vV names no release")?;
    let source = tools.join(format!("rust-src-{version}"));
    if source.join("library/Cargo.lock").is_file() {
        return Ok(Some(source.join("library")));
    }
    bail!("the core library's source is neither in the toolchain nor at {}: {SETUP}", source.display());
}
