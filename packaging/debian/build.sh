#!/usr/bin/env bash
# Makes the Debian package in a directory (default dist), from the source distribution. A second
# argument is added to the version, as in 0.1.0-1+local1. As root, what the build needs is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
destination=$(realpath -m "${1:-dist}")
suffix=${2:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packaging/dist.sh "$work"
archive=$(basename "$work"/ggaoe-*.tar.gz)
version=${archive#ggaoe-}
version=${version%.tar.gz}
mv "$work/$archive" "$work/ggaoe_$version.orig.tar.gz"
tar -C "$work" -xf "$work/ggaoe_$version.orig.tar.gz"
cp -r packaging/debian "$work/ggaoe-$version/debian"
cd "$work/ggaoe-$version"
rm debian/build.sh debian/try.sh
sed -i "1s/)/$suffix)/" debian/changelog

if ! command -v dpkg-buildpackage >/dev/null && [ "$(id -u)" -eq 0 ]; then
    apt-get install -y -q --no-install-recommends dpkg-dev >/dev/null
fi
if ! dpkg-checkbuilddeps 2>/dev/null && [ "$(id -u)" -eq 0 ]; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get build-dep -y -q --no-install-recommends "$PWD" >/dev/null
fi
# Debian's own Python, whatever else is there.
env -u PYTHONPATH -u VIRTUAL_ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
}
mkdir -p "$destination"
cp "$work"/ggaoe*_"$version"* "$destination"
printf '%s\n' "$destination"/ggaoe_"$version"-*"$suffix"_*.deb
