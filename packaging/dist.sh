#!/usr/bin/env bash
# Makes the source distribution in a directory (default dist). It carries the engine's C file, the
# manual pages and the completion: whoever builds from it needs neither Cython nor shtab.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${VENV:-.venv}/bin/python
export PYTHONPATH=$PWD SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

"$python" -m pip install -q --disable-pip-version-check 'cython>=3.1' 'setuptools>=77' 'shtab>=1.13'
rm -rf packaging/made
"$python" packaging/manual.py packaging/made
"$python" packaging/completion.py packaging/made
"$python" setup.py -q sdist --dist-dir "${1:-dist}" >&2 # who calls this may print a path alone
