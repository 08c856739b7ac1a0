#!/usr/bin/env bash
# Builds the demo's images from Debian's packages, as OCI archives, and prints their paths.
#
#   demo/build-images.sh [busybox] [nginx] [redis]      all three, without arguments
#   demo/build-images.sh tools                          busybox and Python, for the tests
#
# They are kept in ${XDG_CACHE_HOME:-~/.cache}/xebec/images and built again only when a recipe changes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XEBEC_IMAGES:-${XDG_CACHE_HOME:-$HOME/.cache}/xebec/images}
recipe=$(cat "$here/build-images.sh" "$here/oci-archive.py" | sha256sum | cut -c 1-12)
mkdir -p "$cache"
drop=(--drop usr/share/doc --drop usr/share/man --drop usr/share/locale --drop usr/share/info --drop usr/share/perl
      --drop usr/share/perl5 --drop usr/bin/perl --drop var/cache --drop var/lib/apt --drop var/lib/dpkg
      --drop usr/lib/x86_64-linux-gnu/perl --drop usr/lib/x86_64-linux-gnu/perl-base
      --drop usr/lib/x86_64-linux-gnu/gconv --drop usr/lib/x86_64-linux-gnu/systemd --drop usr/share/lintian --drop usr/share/bug --drop etc/init.d --drop etc/cron.daily)

say() { printf 'images: %s\n' "$*" >&2; }

# A root file system as a tar, from packages.
packages() {
    mmdebstrap --quiet --variant=extract --include="$1" --extract-hook="$2" bookworm - 2>/dev/null
}

# Users that the packages would have made in their scripts, which "extract" does not run.
users='mkdir -p "$1/etc" "$1/tmp" "$1/run" "$1/var/log/nginx" "$1/var/lib/nginx" "$1/data"; chmod 1777 "$1/tmp";
printf "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\nredis:x:101:101::/data:/bin/false\n" >"$1/etc/passwd";
printf "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\nredis:x:101:\n" >"$1/etc/group"; chown 101:101 "$1/data"'

# A link to busybox for each of its programs that no package brought.
applets='for program in $("$1/bin/busybox" --list); do [ -e "$1/bin/$program" ] || ln -s busybox "$1/bin/$program"; done'

# busybox and a link for each of its programs.
busybox_root() {
    local root=$1 program
    mkdir -p "$root"/{bin,etc,tmp,www,root}
    chmod 1777 "$root/tmp"
    install -m 0755 "$(type -P busybox)" "$root/bin/busybox"
    for program in $("$root/bin/busybox" --list); do
        [ "$program" = busybox ] || ln -sf busybox "$root/bin/$program"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    tar -C "$root" --numeric-owner --owner=0 --group=0 -c .
}

build() {
    local out=$1 name=$2 work
    shift 2
    case $name in
    busybox)
        work=$(mktemp -d)
        busybox_root "$work" | python3 "$here/oci-archive.py" xebec.local/busybox:1 "$out" --cmd '["sh"]'
        rm -rf "$work" ;;
    nginx)
        packages nginx-light "$users" | python3 "$here/oci-archive.py" xebec.local/nginx:1 "$out" "${drop[@]}" \
            --cmd '["nginx", "-g", "daemon off; error_log /dev/stderr;"]' ;;
    redis)
        packages redis-server "$users" | python3 "$here/oci-archive.py" xebec.local/redis:1 "$out" "${drop[@]}" \
            --cmd '["redis-server", "--bind", "*", "--protected-mode", "no", "--dir", "/data"]' ;;
    tools)
        packages python3,busybox-static "$users; $applets" | python3 "$here/oci-archive.py" xebec.local/tools:1 "$out" \
            "${drop[@]}" --cmd '["sh"]' ;;
    *) say "there is no image $name"; exit 2 ;;
    esac
}

for name in "${@:-busybox nginx redis}"; do
    for name in $name; do
        out=$cache/$name-$recipe.tar
        if [ ! -e "$out" ]; then
            say "building $name from Debian's packages"
            rm -f "$cache/$name"-*.tar
            build "$out" "$name"
        fi
        printf '%s\n' "$out"
    done
done
