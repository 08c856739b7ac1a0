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
kernel=$tools/kernel-$suite
xebec=${XEBEC:-$(dirname "$0")/../bin/xebec}
limit_seconds=${XEBEC_VM_LIMIT_SECONDS:-1200}
die() { printf 'vm: %s\n' "$*" >&2; exit 1; }

[ -e "$kernel/done" ] || die "no kernel in $kernel; scripts/setup.sh vm fetches it"
dir=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true; rm -rf "$dir"' EXIT
"$xebec" initramfs --kernel "$kernel" >"$dir/initramfs" || die "no first root"
cat >"$dir/main" <<MAIN
hostname vm
# Containers' layers can't lie on a layer.
for d in tmp run var/lib/xebec var/lib/containerd var/tmp; do mkdir -p /\$d; mount -t tmpfs -o size=60% tmpfs /\$d; done
# As where Docker is.
modprobe br_netfilter
export HOME=/root PATH=$PATH XEBEC_TOOLS=$tools XEBEC=$xebec IMAGE=${IMAGE:-}
cd "$(dirname "$script")"
bash "$script" 2>&1 </dev/null | cat
echo "vm: exit \${PIPESTATUS[0]}"
sync
echo o >/proc/sysrq-trigger
sleep 60
MAIN
/usr/lib/qemu/virtiofsd --socket-path="$dir/files" -o source=/ -o cache=auto -o sandbox=chroot >"$dir/virtiofsd.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do [ -S "$dir/files" ] && break; sleep 0.05; done
[ -S "$dir/files" ] || { cat "$dir/virtiofsd.log" >&2; die "virtiofsd does not start"; }
timeout "$limit_seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m 4096 -nodefaults -no-reboot -nographic -serial mon:stdio \
    -object memory-backend-memfd,id=mem,size=4096M,share=on -numa node,memdev=mem \
    -chardev socket,id=files,path="$dir/files" -device vhost-user-fs-pci,chardev=files,tag=host \
    -kernel "$kernel"/boot/vmlinuz-* -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 cgroup_no_v1=all xebec_modules=$(echo "$kernel"/lib/modules/*) -- /bin/bash $dir/main" 2>&1 </dev/null | tr -d '\r' | tee "$dir/output" | grep -av -e '^vm: exit' -e SeaBIOS -e 'Booting from ROM' || true
status=$(sed -n 's/^vm: exit \([0-9]*\)$/\1/p' "$dir/output" | tail -n 1)
[ -n "$status" ] || die "the machine ended without a result (limit: $limit_seconds s)"
exit "$status"
