#!/usr/bin/env bash
# Installs the Debian package in a fresh root, and tries it: an empty configuration, an export that a
# host finds, writes and reads, an upgrade, a removal, a purge. Needs root, mmdebstrap and the network;
# the trial itself is on interfaces of its own. Arguments: the package, and a newer one to upgrade to;
# without any, both are built. SUITE (default: this machine's) is what the root is made of.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
suite=${SUITE:-$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")}

work=$(mktemp -d)
root=$work/root
cleanup() {
    local name
    if [ -s "$root/run/ggaoed/ggaoed.pid" ]; then kill "$(cat "$root/run/ggaoed/ggaoed.pid")" || true; fi
    for name in host target; do ip netns del "try-$name-$$" 2>/dev/null || true; done
    for name in dev proc; do umount "$root/$name" 2>/dev/null || true; done
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
on() { # NAMESPACE COMMAND...
    local name=$1
    shift
    ip netns exec "try-$name-$$" chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"
}
files() { (cd "$root" && find etc usr lib var run -xdev ! -path 'var/cache/*' ! -path 'var/log/*' ! -path 'var/lib/apt/*' ! -path 'var/lib/dpkg/*' 2>/dev/null | sort); }

make_root() {
    local sources=() file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [ -s "$file" ]; then sources+=("$file"); fi
    done
    mmdebstrap --quiet --variant=apt "$suite" "$root" "${sources[@]}"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for file in null zero full random urandom tty; do cp -a "/dev/$file" "$root/dev/$file"; done
    # No service manager runs there: services are not started.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

network() {
    ip netns add "try-host-$$"
    ip netns add "try-target-$$"
    ip -n "try-target-$$" link add san0 type veth peer name eth0 netns "try-host-$$"
    ip -n "try-target-$$" link set san0 up
    ip -n "try-host-$$" link set eth0 up
    local try
    for try in $(seq 100); do # the kernel takes its time to say so
        if ip -n "try-host-$$" link show eth0 | grep -q 'state UP'; then return 0; fi
        sleep 0.1
    done
    fail "no link after $try tries"
}

start() { # as ggaoe.service does
    inside install -d -o ggaoed -g ggaoed /var/lib/ggaoed /run/ggaoed
    on target setpriv --reuid=ggaoed --regid=ggaoed --init-groups --inh-caps=-all,+net_raw --ambient-caps=-all,+net_raw \
        --bounding-set=-all,+net_raw --no-new-privs ggaoe -c /etc/ggaoe/ggaoed.conf >>"$work/log" 2>&1 &
    daemon=$!
    local try
    for try in $(seq 100); do
        if inside ggaoectl version >/dev/null 2>&1; then return 0; fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log" >&2
    fail "the daemon does not answer after $try tries"
}

stop() {
    kill "$(cat "$root/run/ggaoed/ggaoed.pid")"
    wait "$daemon" || fail "the daemon ended with $?"
}

if [ $# -lt 2 ]; then
    mkdir "$work/old" "$work/new"
    set -- "$("$here/build.sh" "$work/old")" "$("$here/build.sh" "$work/new" +try1)"
fi

if ! command -v mmdebstrap >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends mmdebstrap >/dev/null
fi
say "a root of $suite"
make_root
inside apt-get update -qq
# What the package depends on comes first, so that what is left at the end is its own.
dpkg-deb -f "$1" Depends | tr , '\n' | sed -e 's/|.*//' -e 's/(.*//' -e 's/:any//' >"$work/depends"
# shellcheck disable=SC2046
inside apt-get install -qq -y --no-install-recommends $(cat "$work/depends") >/dev/null 2>"$work/apt" || fail "$(cat "$work/apt")"
files >"$work/before"
cp "$1" "$root/root/old.deb"
cp "$2" "$root/root/new.deb"

say "install $(basename "$1")"
inside apt-get install -qq -y --no-install-recommends /root/old.deb >"$work/apt" 2>&1 || fail "$(cat "$work/apt")"
inside id ggaoed >/dev/null || fail "no user"
[ -L "$root/etc/systemd/system/multi-user.target.wants/ggaoe.service" ] || fail "not enabled"
inside ggaoe --version | grep -q 'engine: native' || fail "no native engine"
if grep -v -e '^#' -e '^$' -e '^\[' "$root/etc/ggaoe/ggaoed.conf"; then fail "the configuration sets something"; fi

say "an empty configuration"
network
start
inside ggaoectl list
stop

say "an export"
inside install -d -o ggaoed /srv/aoe
inside truncate -s 64M /srv/aoe/disk
inside chown ggaoed /srv/aoe/disk
printf '[defaults]\ninterfaces = san0\n[disk]\npath = /srv/aoe/disk\nshelf = 0\nslot = 1\n' >"$root/etc/ggaoe/ggaoed.conf"
start
inside ggaoectl list
inside ggaoectl show daemon
on host ggaoe discover | tee "$work/found"
grep -q '^e0\.1 ' "$work/found" || fail "not found"
head -c 64M /dev/urandom >"$root/root/data"
on host ggaoe copy --quiet --force /root/data e0.1
on host ggaoe copy --quiet e0.1 /root/back
cmp "$root/root/data" "$root/root/back" || fail "other data came back"
cmp "$root/root/data" "$root/srv/aoe/disk" || fail "other data are on the disk"

say "upgrade to $(basename "$2"), with the daemon running"
inside apt-get install -qq -y --no-install-recommends /root/new.deb >"$work/apt" 2>&1 || fail "$(cat "$work/apt")"
grep -q 'san0' "$root/etc/ggaoe/ggaoed.conf" || fail "the configuration was replaced"
on host ggaoe discover | grep -q '^e0\.1 ' || fail "not found any more"
stop
start
on host ggaoe copy --quiet --force e0.1 /root/back
cmp "$root/root/data" "$root/root/back" || fail "other data came back"
stop

say "remove"
touch "$root/var/lib/ggaoed/kept"
# What a single export leaves, and what enables it.
inside install -d -o ggaoed -g ggaoed /var/lib/ggaoed-export/data
touch "$root/etc/ggaoe/export/data.conf"
ln -s /lib/systemd/system/ggaoe-export@.service \
    "$root/etc/systemd/system/multi-user.target.wants/ggaoe-export@data.service"
inside apt-get remove -qq -y ggaoe >"$work/apt" 2>&1 || fail "$(cat "$work/apt")"
[ -e "$root/etc/ggaoe/ggaoed.conf" ] || fail "the configuration is gone"
[ -e "$root/var/lib/ggaoed/kept" ] || fail "the state is gone"
[ -e "$root/etc/ggaoe/export/data.conf" ] || fail "the single export is gone"
[ ! -e "$root/usr/bin/ggaoe" ] || fail "the program is still there"

say "purge"
inside apt-get purge -qq -y ggaoe >"$work/apt" 2>&1 || fail "$(cat "$work/apt")"
cmp "$root/root/data" "$root/srv/aoe/disk" || fail "the disk was touched"
rm -rf "$root/run/ggaoed" # as a reboot does
files >"$work/after"
# The user stays, as is Debian's custom: its number must not become somebody else's.
diff "$work/before" "$work/after" | tee "$work/left" || true
if grep '^>' "$work/left" | grep -q ggaoe; then fail "something is left"; fi
say "passed"
