//! Builds the eBPF programs for their own target, so that plain `cargo build` builds everything.
//!
//! The nested build needs two things that a stable toolchain lacks: `bpf-linker`, and the core library compiled for BPF
//! (`-Z build-std`, hence its source and `RUSTC_BOOTSTRAP`, both for the nested cargo only).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

const SETUP: &str = "run `make setup` (scripts/setup.sh build) first";
const PACKAGE: &str = "xebec-ebpf-programs";

fn main() -> Result<()> {
    let variable = |name: &str| env::var_os(name).with_context(|| format!("cargo sets {name}"));
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let ebpf = manifest.parent().context("the crate is in a folder")?;
    // The environment says where the tools are, not what is built: a build that did not find them is tried again anyhow.
    for folder in ["layout", "programs"] {
        println!("cargo:rerun-if-changed={}", ebpf.join(folder).display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    let out = PathBuf::from(variable("OUT_DIR")?);
    // <target>/<profile>/build/<package>/out: one nested build for all profiles, so that the core library is compiled once.
    let target = out.ancestors().nth(4).context("OUT_DIR is not where cargo puts it")?.join("ebpf");
    let tools = tools();
    let linker_dir = linker_dir(&tools)?;
    let mut path = vec![linker_dir];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));

    let triple = match variable("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--release", "--bins", "-Z", "build-std=core", "--package", PACKAGE])
        .args(["--target", triple, "--target-dir"])
        .arg(&target)
        .current_dir(ebpf.join("programs"))
        .env("PATH", env::join_paths(path)?)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&variable("CARGO_CFG_TARGET_ARCH")?));
    if let Some(source) = rust_source(&tools)? {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
    }
    // What is meant for the host's crates: clippy's wrapper, flags, the outer build's choice of folder.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    let output = cargo.output().context("running cargo for the eBPF programs")?;
    if !output.status.success() {
        bail!("building the eBPF programs failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let built = target.join(triple).join("release").join(PACKAGE);
    fs::copy(&built, out.join(PACKAGE)).with_context(|| format!("copying {}", built.display()))?;
    Ok(())
}

/// What aya-ebpf and bpf-linker want: the architecture whose registers programs may see, and type information (BTF), which is
/// made from debug information.
fn flags(arch: &OsString) -> OsString {
    let mut flags = OsString::from("--cfg=bpf_target_arch=\"");
    flags.push(arch);
    flags.push("\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf");
    flags
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
