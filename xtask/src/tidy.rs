//! The house rules that neither rustfmt nor clippy checks: sizes, leftovers, layering, the code map.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A file longer than this wants to be a folder.
const MAX_LINES: usize = 800;

/// What a crate must not depend on, and so what it must not know. Only direct dependencies count; dev-dependencies may
/// be anything.
const LAYERS: &[(&str, &[&str])] = &[
    // Pure: no I/O, no runtime, nothing of the rest.
    ("xebec-schema", &["tokio", "kube", "axum", "hyper", "rusqlite", "nix", "libc", "xebec-*"]),
    ("xebec-clock", &["kube", "axum", "xebec-*"]),
    ("xebec-ebpf-layout", &["tokio", "nix", "serde_json", "xebec-*"]),
    ("xebec-store", &["kube", "axum", "xebec-apiserver", "xebec-controllers", "xebec-node-agent"]),
    ("xebec-pki", &["kube", "axum", "xebec-apiserver", "xebec-controllers", "xebec-node-agent"]),
    ("xebec-apiserver", &["aya", "containerd-client", "xebec-controllers", "xebec-scheduler", "xebec-node-agent"]),
    // They see the cluster through kube::Client only.
    ("xebec-controllers", &["axum", "rusqlite", "xebec-apiserver", "xebec-store", "xebec-node-agent"]),
    ("xebec-scheduler", &["axum", "rusqlite", "xebec-apiserver", "xebec-store", "xebec-node-agent"]),
    ("xebec-node-agent", &["rusqlite", "xebec-apiserver", "xebec-store", "xebec-scheduler"]),
    ("xebec-cni", &["aya", "kube", "xebec-apiserver", "xebec-ebpf-loader", "xebec-node-agent"]),
    ("xebec-ebpf-loader", &["kube", "xebec-apiserver", "xebec-node-agent"]),
];

/// Crates that a crate of the repository may use although `xebec-*` is barred: the two that are below everything.
const BASE: &[&str] = &["xebec-clock", "xebec-ebpf-layout"];

/// Left by somebody who meant to come back.
fn leftovers() -> Vec<String> {
    // Written so that this file does not find itself.
    ["to_do!(", "unimpl_emented!(", "db_g!(", "FIX_ME", "XX_X"].map(|s| s.replace('_', "")).to_vec()
}

/// Checks everything, and lists all that is wrong.
pub fn check() -> Result<()> {
    // Not as it was when this was compiled: clones share a target directory, and each is to check itself.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").context("start it by cargo run")?;
    let root = Path::new(&own).parent().context("xtask is not in a workspace")?;
    let packages = packages(root)?;
    let mut wrong = Vec::new();
    for file in sources(root)? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        wrong.extend(check_source(&file.display().to_string(), &text));
    }
    for package in &packages {
        wrong.extend(check_layers(package));
        let manifest = fs::read_to_string(&package.manifest_path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: does not take the workspace's lints", package.manifest_path.display()));
        }
    }
    let readme = fs::read_to_string(root.join("README.md")).context("cannot read README.md")?;
    wrong.extend(check_code_map(root, &packages, &readme));
    for line in &wrong {
        eprintln!("tidy: {line}");
    }
    if !wrong.is_empty() {
        bail!("{} house rules broken", wrong.len());
    }
    println!("tidy: {} crates in order", packages.len());
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

fn packages(root: &Path) -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice::<Metadata>(&output.stdout).context("cannot read cargo's metadata")?.packages)
}

/// The repository's Rust sources: what git has, or would have.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let names = text.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from);
    Ok(names.filter(|n| root.join(n).is_file()).collect())
}

fn check_source(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{file}: {lines} lines; more than {MAX_LINES} want to be a folder"));
    }
    let leftovers = leftovers();
    for (number, line) in text.lines().enumerate() {
        for leftover in leftovers.iter().filter(|l| line.contains(l.as_str())) {
            wrong.push(format!("{file}:{}: {leftover} left behind", number + 1));
        }
    }
    wrong
}

fn check_layers(package: &Package) -> Vec<String> {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let Some(barred) = layers.get(package.name.as_str()) else { return Vec::new() };
    let bars = |name: &str| {
        barred.iter().any(|b| match b.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix) && !BASE.contains(&name),
            None => *b == name,
        })
    };
    let used = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
    used.filter(|d| bars(&d.name)).map(|d| format!("{}: must not depend on {}", package.name, d.name)).collect()
}

/// The README's code map names every crate's folder.
fn check_code_map(root: &Path, packages: &[Package], readme: &str) -> Vec<String> {
    let folders = packages.iter().filter_map(|p| p.manifest_path.parent()?.strip_prefix(root).ok());
    folders
        .filter(|f| !f.as_os_str().is_empty() && !readme.contains(&format!("`{}/`", f.display())))
        .map(|f| format!("README.md: the code map does not name `{}/`", f.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(ToOwned::to_owned),
        };
        Package {
            name: name.to_owned(),
            manifest_path: format!("/r/{name}/Cargo.toml").into(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn a_pure_crate_stays_pure() {
        let pure = package("xebec-schema", &[("serde", None), ("tokio", Some("dev")), ("xebec-clock", None)]);
        assert!(check_layers(&pure).is_empty());
        let leaking = package("xebec-schema", &[("tokio", None), ("xebec-store", None), ("nix", Some("build"))]);
        assert_eq!(check_layers(&leaking).len(), 3);
        assert!(check_layers(&package("xebec", &[("tokio", None)])).is_empty());
    }

    #[test]
    fn leftovers_and_long_files_are_found() {
        let text = format!("fn a() {{ {}) }}\n", leftovers()[0]);
        assert_eq!(check_source("a.rs", &text), [format!("a.rs:1: {} left behind", leftovers()[0])]);
        assert_eq!(check_source("a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert!(check_source("a.rs", &"\n".repeat(MAX_LINES)).is_empty());
    }

    #[test]
    fn the_code_map_names_every_folder() {
        let packages = [package("a", &[]), package("b", &[])];
        let found = check_code_map(Path::new("/r"), &packages, "- `a/`: this");
        assert_eq!(found, ["README.md: the code map does not name `b/`"]);
    }
}
