#!/bin/busybox sh
# The first program of a virtual machine: makes the host's files the machine's root, with a layer in memory over them for
# what is written, and goes on there with the command it was given as arguments.
#
# From the kernel's command line, where the command stands after "--", it also has
#   xebec_modules  where the kernel's modules are on the host
#   xebec_shared   a directory that is the host's own, also when written to
#   xebec_data     a directory that is on the machine's disk
#   xebec_input    what the command reads as its standard input
# each of which may be missing.
/bin/busybox --install -s /bin
# A console that is a log has no colours.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NO_COLOR=1
stop() { echo "init: $*"; poweroff -f; }

mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod "/modules/$module" || stop "cannot load $module"
done
mount -t virtiofs host /lower || stop "the host does not share its files"
mount -t tmpfs -o size=80% layer /layer; mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root || stop "no layer for what is written"
for dir in proc sys dev; do mount --move /$dir /root/$dir; done

own=/root/lib/modules/$(uname -r)
if [ -n "$xebec_modules" ]; then
    mkdir -p "$own" && mount --bind "/lower$xebec_modules" "$own" || stop "no modules in $xebec_modules"
fi
if [ -n "$xebec_shared" ]; then
    mount --bind "/lower$xebec_shared" "/root$xebec_shared" || stop "the host has no $xebec_shared"
fi
if [ -n "$xebec_data" ]; then
    mount -t ext4 /root/dev/vda "/root$xebec_data" || stop "the machine's disk can't be mounted"
fi
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup; mount -t bpf bpf /root/sys/fs/bpf; mount -t tracefs trace /root/sys/kernel/tracing
mkdir -p /root/dev/pts /root/dev/shm; mount -t devpts devpts /root/dev/pts; mount -t tmpfs shm /root/dev/shm
ip link set lo up
# Not chroot: what joins a mount namespace starts at its real root.
exec switch_root /root "$@" <"/root${xebec_input:-/dev/null}"
