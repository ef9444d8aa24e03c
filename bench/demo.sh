#!/usr/bin/env bash
# The main job, visibly: a file is exported over Ethernet from one network namespace to another,
# discovered, written, read back and compared; figures are printed, and everything is cleaned up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$(realpath "${VENV:-.venv}")/bin:$PATH
size_mib=${DEMO_MIB:-128}

if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, to make network namespaces and send Ethernet frames: sudo make demo" >&2
    exit 1
fi

target=ggaoe-demo-target-$$
host=ggaoe-demo-host-$$
work=$(mktemp -d /var/tmp/ggaoe-demo-XXXXXX)

clean_up() {
    local status=$? pid
    if pid=$(cat "$work/ggaoed.pid" 2>/dev/null); then
        kill -TERM "$pid" 2>/dev/null || true
        for _ in $(seq 100); do [ -e "$work/ggaoed.pid" ] || break; sleep 0.1; done
    fi
    ip netns del "$target" 2>/dev/null || true
    ip netns del "$host" 2>/dev/null || true
    rm -rf "$work"
    if [ $status -eq 0 ]; then
        printf '\nEverything is cleaned up.\n'
    else
        printf '\nThe demo FAILED; everything is cleaned up.\n' >&2
    fi
}
trap clean_up EXIT

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
on_target() { show "$*"; ip netns exec "$target" "$@"; }
on_host() { show "$*"; ip netns exec "$host" "$@"; }

say "Two machines, target and host, with a cable between them (MTU 9000)"
ip netns add "$target"
ip netns add "$host"
ip link add san0 netns "$target" mtu 9000 type veth peer name eth0 netns "$host" mtu 9000
ip -n "$target" link set san0 up
ip -n "$host" link set eth0 up
until [ "$(ip netns exec "$host" cat /sys/class/net/eth0/operstate)" = up ]; do sleep 0.05; done

say "Target: a disk of $size_mib MiB in a file, and a configuration"
fallocate -l "${size_mib}MiB" "$work/disk.img"
mkdir "$work/state"
cat >"$work/ggaoed.conf" <<CONF
[defaults]
interfaces = san0
pid-file = $work/ggaoed.pid
control-socket = $work/ggaoed.sock
state-directory = $work/state

[demo]
path = $work/disk.img
shelf = 0
slot = 1
CONF
cat "$work/ggaoed.conf"
on_target ggaoe check -c "$work/ggaoed.conf"
on_target ggaoe -c "$work/ggaoed.conf" -d
on_target ggaoectl -c "$work/ggaoed.conf" list

say "Host: what is there?"
on_host ggaoe discover -i eth0
on_host ggaoe identify -i eth0 e0.1
on_host ggaoe ping -i eth0 -c 5 --interval 0.05 e0.1

say "Host: write the whole disk with random data, and read it back"
head -c "${size_mib}M" /dev/urandom >"$work/written"
on_host ggaoe copy --force -i eth0 "$work/written" e0.1
on_host ggaoe copy -i eth0 e0.1 "$work/read"

say "Compare: what was written, what was read over Ethernet, and what is in the target's file"
show cmp written read
cmp "$work/written" "$work/read"
show cmp written disk.img
cmp "$work/written" "$work/disk.img"
echo "All $size_mib MiB are the same."

say "Target: what it counted"
on_target ggaoectl -c "$work/ggaoed.conf" stats
