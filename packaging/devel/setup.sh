#!/usr/bin/env bash
# Sets up a machine to run ggaoe from this tree and to test it: Debian's packages (as root; what is
# missing otherwise makes tests skip, and they say so) and a virtual environment in $VENV.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=${VENV:-.venv}
stamp=$venv/.setup-done

packages=(
    python3 python3-venv python3-dev gcc libc6-dev iproute2 util-linux mount e2fsprogs procps
    # peers and independent readers of the protocol
    aoetools vblade tshark fio
    # late system calls, for the torture tests
    strace
    # promtool; the status page as a browser shows it
    prometheus chromium fonts-dejavu-core
    # the kernel initiator's guest
    user-mode-linux busybox-static
    # checks of units, manual pages and completion
    systemd man-db mandoc zsh fish rpm
    # GLib's reader of the configuration dialect
    python3-gi gir1.2-glib-2.0
)

missing() {
    local name
    for name in "${packages[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || printf '%s ' "$name"
    done
    ldconfig -p | grep -q 'libaio\.so\.1' || printf 'libaio '
}

install_packages() {
    local wanted
    wanted=$(missing)
    [ -n "$wanted" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        printf 'setup: not root, so these Debian packages stay missing: %s\n' "$wanted" >&2
        return 0
    fi
    printf 'setup: installing Debian packages: %s\n' "$wanted"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    case " $wanted" in
        *" libaio "*)
            # Debian 13 renamed the library's package.
            wanted=${wanted/libaio /}
            if apt-cache show libaio1t64 >/dev/null 2>&1; then wanted+=libaio1t64; else wanted+=libaio1; fi
            ;;
    esac
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $wanted >/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$name"
            return 0
        fi
    done
    printf 'setup: needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)\n' >&2
    return 1
}

if command -v apt-get >/dev/null; then install_packages; fi
sources=(pyproject.toml setup.py packaging/devel/setup.sh ggaoe/engine/native/*.p*)
newer=$(find "${sources[@]}" -newer "$stamp" 2>/dev/null || echo all)
if [ -n "$newer" ]; then
    python=$(find_python)
    printf 'setup: virtual environment %s with %s\n' "$venv" "$("$python" --version)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e '.[test,dev]'
    touch "$stamp"
fi
