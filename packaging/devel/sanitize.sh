#!/usr/bin/env bash
# Builds the native engine with AddressSanitizer and UBSan into a copy of the tree, and runs its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$(realpath "${VENV:-.venv}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -c --exclude=.venv --exclude=.git --exclude='*.so' --exclude=build . | tar -x -C "$copy"
cd "$copy"
export PYTHONPATH=$copy
"$venv/bin/pip" install -q --disable-pip-version-check 'cython>=3.1' 'setuptools>=77'
flags=-fsanitize=address,undefined
CFLAGS="$flags -g -fno-omit-frame-pointer" LDFLAGS=$flags "$venv/bin/python" setup.py -q build_ext --inplace --force
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/unit/native "$@"
