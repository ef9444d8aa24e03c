#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz, for so many seconds together (default 420); further arguments go
# to tests/fuzz/run.py. The native engine is built with coverage, AddressSanitizer and UBSan in a copy
# of the tree; without clang it is the usual one, and only Python's coverage guides the fuzzer there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$(realpath -s "${VENV:-.venv}")/bin/python
tree=$PWD
total=${1:-420}
shift $(($# > 0))
export PYTHONPATH=$tree

if ! "$python" -c 'import atheris' 2>/dev/null; then
    "$python" -m pip install -q --disable-pip-version-check -e '.[fuzz]' || {
        printf 'fuzz: atheris cannot be installed for this Python: nothing is fuzzed\n' >&2
        exit 0
    }
fi
if ! command -v clang >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends clang >/dev/null ||
        printf 'fuzz: clang cannot be installed\n' >&2
fi

mapfile -t targets < <("$python" tests/fuzz/run.py --list)
each=$((total / ${#targets[@]}))
run=("$python" tests/fuzz/run.py --data "$tree/tests/fuzz" --seconds $((each > 0 ? each : 1)) "$@")
status=0
if command -v clang >/dev/null; then
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    tar -c --exclude=.venv --exclude=.git --exclude='*.so' --exclude=build . | tar -x -C "$copy"
    cd "$copy"
    "$python" -m pip install -q --disable-pip-version-check 'cython>=3.1' 'setuptools>=77'
    PYTHONPATH=$copy CC=clang \
        CFLAGS='-fsanitize=address,undefined,fuzzer-no-link -g -fno-omit-frame-pointer' \
        "$python" setup.py -q build_ext --inplace --force
    runtime=$("$python" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
    PYTHONPATH=$copy LD_PRELOAD=$runtime \
        ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
        "${run[@]}" native || status=1
    cd "$tree"
else
    printf 'fuzz: no clang: the native engine without sanitizers\n' >&2
    "${run[@]}" native || status=1
fi
"${run[@]}" $(printf '%s\n' "${targets[@]}" | grep -vx native) || status=1
exit "$status"
