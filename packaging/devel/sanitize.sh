#!/usr/bin/env bash
# Builds the native engine with AddressSanitizer and UBSan, then with ThreadSanitizer, into a copy of the
# tree, and runs its tests each time. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$(realpath "${VENV:-.venv}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -c --exclude=.venv --exclude=.git --exclude='*.so' --exclude=build . | tar -x -C "$copy"
cd "$copy"
export PYTHONPATH=$copy
"$venv/bin/pip" install -q --disable-pip-version-check 'cython>=3.1' 'setuptools>=77'

build() {
    CFLAGS="-fsanitize=$1 -g -fno-omit-frame-pointer" LDFLAGS="-fsanitize=$1" \
        "$venv/bin/python" setup.py -q build_ext --inplace --force
}

build address,undefined
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/unit/native tests/unit/engine "$@"

build thread
# Other programs that the tests start do not run under it.
LD_PRELOAD="$(gcc -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1:exitcode=66 \
    "$venv/bin/python" -c 'import os, sys, pytest; del os.environ["LD_PRELOAD"]; sys.exit(pytest.main(sys.argv[1:]))' \
    -q -p no:cacheprovider tests/unit/native "$@"
