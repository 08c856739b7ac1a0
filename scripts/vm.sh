#!/usr/bin/env bash
# Runs a script as root in a virtual machine with one of Debian's own kernels, and this machine's files as its own.
#
#   scripts/vm.sh KERNEL SCRIPT      KERNEL: bookworm (6.1) or backports (6.12)
#
# What the script writes is in memory and gone with the machine. Its output and its exit status are this command's. The
# machine is emulated (slow, but it needs nothing of the host), and has cgroup v2 only, as most machines have.
set -euo pipefail

[ $# = 2 ] || { echo "usage: scripts/vm.sh bookworm|backports SCRIPT" >&2; exit 2; }
suite=$1
script=$(realpath "$2")
tools=${XEBEC_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/xebec/tools}
limit_seconds=${XEBEC_VM_LIMIT_SECONDS:-1200}
die() { printf 'vm: %s\n' "$*" >&2; exit 1; }

# The newest cloud kernel of the suite, unpacked; nothing is installed.
kernel() {
    local dir=$tools/kernel-$suite deb
    [ -e "$dir/done" ] && return
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

# A first root that brings up this machine's files, read-only under a layer in memory, and goes there.
initramfs() {
    local out=$1 root release
    root=$(mktemp -d)
    release=$(ls "$tools/kernel-$suite/lib/modules")
    mkdir -p "$root"/{bin,proc,sys,dev,lower,layer,root,lib/modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp -a "$tools/kernel-$suite/lib/modules/$release" "$root/lib/modules/"
    cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtiofs overlay virtio_net veth bridge vxlan nf_tables nft_masq nft_chain_nat nft_reject_inet br_netfilter af_packet; do
    modprobe \$m 2>/dev/null
done
mount -t virtiofs host /lower -o ro || { echo "vm: no files"; poweroff -f; }
mount -t tmpfs -o size=80% layer /layer; mkdir /layer/upper /layer/work
mount -t overlay overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work /root
for d in proc sys dev; do mount --move /\$d /root/\$d; done
# Containers' layers can't lie on a layer.
for d in tmp run var/lib/xebec var/lib/containerd var/tmp; do mkdir -p /root/\$d; mount -t tmpfs -o size=60% tmpfs /root/\$d; done
mkdir -p /root/lib/modules; cp -a /lib/modules/$release /root/lib/modules/
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup; mount -t bpf bpf /root/sys/fs/bpf; mount -t tracefs trace /root/sys/kernel/tracing
mkdir -p /root/dev/pts /root/dev/shm; mount -t devpts devpts /root/dev/pts; mount -t tmpfs shm /root/dev/shm
ip link set lo up
hostname vm
cat >/root/tmp/main <<'MAIN'
export HOME=/root PATH=$PATH XEBEC_TOOLS=$tools XEBEC=${XEBEC:-} IMAGE=${IMAGE:-}
cd "$(dirname "$script")"
bash "$script" 2>&1 </dev/null | cat
echo "vm: exit \${PIPESTATUS[0]}"
sync
echo o >/proc/sysrq-trigger
sleep 60
MAIN
# Not chroot: what joins a mount namespace starts at its real root.
exec switch_root /root /bin/bash /tmp/main
INIT
    chmod +x "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$out"
    rm -rf "$root"
}

kernel
dir=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true; rm -rf "$dir"' EXIT
initramfs "$dir/initramfs"
/usr/lib/qemu/virtiofsd --socket-path="$dir/files" -o source=/ -o cache=auto -o sandbox=chroot >"$dir/virtiofsd.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do [ -S "$dir/files" ] && break; sleep 0.05; done
[ -S "$dir/files" ] || { cat "$dir/virtiofsd.log" >&2; die "virtiofsd does not start"; }
timeout "$limit_seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m 4096 -nodefaults -no-reboot -nographic -serial mon:stdio \
    -object memory-backend-memfd,id=mem,size=4096M,share=on -numa node,memdev=mem \
    -chardev socket,id=files,path="$dir/files" -device vhost-user-fs-pci,chardev=files,tag=host \
    -kernel "$tools/kernel-$suite"/boot/vmlinuz-* -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 cgroup_no_v1=all" 2>&1 </dev/null | tr -d '\r' | tee "$dir/output" | grep -av -e '^vm: exit' -e SeaBIOS -e 'Booting from ROM' || true
status=$(sed -n 's/^vm: exit \([0-9]*\)$/\1/p' "$dir/output" | tail -n 1)
[ -n "$status" ] || die "the machine ended without a result (limit: $limit_seconds s)"
exit "$status"
