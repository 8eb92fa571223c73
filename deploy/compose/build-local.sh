#!/usr/bin/env bash
# Builds mirrormesh:local from binaries that cargo has built on this machine, without any base image.
#
#   deploy/compose/build-local.sh                # parts, then the image
#   deploy/compose/build-local.sh --parts-only   # only deploy/compose/build/
#
# PROFILE=release|dist|debug picks the folder under target/ (default: dist if it is there, else release),
# CARGO_TARGET_DIR another target folder, IMAGE another name.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
image=${IMAGE:-mirrormesh:local}
parts=$here/build
binaries=(mirrormesh mirrormesh-coordinator mirrormesh-source mirrormesh-checkpoint mirrormesh-heartbeat)

fail() {
  echo "build-local.sh: $*" >&2
  exit 1
}

parts_only=no
case "${1:-}" in
  "") ;;
  --parts-only) parts_only=yes ;;
  *) fail "unknown argument: $1" ;;
esac

profile=${PROFILE:-}
if [ -z "$profile" ]; then
  profile=release
  if [ -x "$target/dist/${binaries[0]}" ]; then profile=dist; fi
fi

rm -rf "$parts"
mkdir -p "$parts/bin" "$parts/data" "$parts/rootfs"/{etc/ssl/certs,tmp}
chmod 1777 "$parts/rootfs/tmp"

for binary in "${binaries[@]}"; do
  [ -x "$target/$profile/$binary" ] || fail "$target/$profile/$binary is not there: build it first (cargo build --profile $profile --bins)"
  cp "$target/$profile/$binary" "$parts/bin/"
done

# Every shared library at the path where the loader looks for it, the loader itself included.
libraries=$(ldd "$parts"/bin/*)
case "$libraries" in *"not found"*) fail "a shared library is missing: $libraries" ;; esac
# The resolver's plugins are opened at run time, so ldd doesn't name them (glibc before 2.34 only).
plugins=$(find /lib /usr/lib -name 'libnss_dns.so.2' -o -name 'libnss_files.so.2' -o -name 'libresolv.so.2')
{ grep -oE '/[^ )]+\.so[^ )]*' <<<"$libraries"; echo "$plugins"; } | sort -u | while read -r library; do
  [ -n "$library" ] || continue
  mkdir -p "$parts/rootfs$(dirname "$library")"
  cp --dereference "$library" "$parts/rootfs$library"
done

printf 'root:x:0:0:root:/:/sbin/nologin\nmirrormesh:x:10001:10001::/var/lib/mirrormesh:/sbin/nologin\n' >"$parts/rootfs/etc/passwd"
printf 'root:x:0:\nmirrormesh:x:10001:\n' >"$parts/rootfs/etc/group"
printf 'hosts: files dns\n' >"$parts/rootfs/etc/nsswitch.conf"
[ -r /etc/ssl/certs/ca-certificates.crt ] || fail "/etc/ssl/certs/ca-certificates.crt is not there: install ca-certificates"
cp /etc/ssl/certs/ca-certificates.crt "$parts/rootfs/etc/ssl/certs/"

# A library that was missed shows here and not when the container starts.
if command -v chroot >/dev/null && [ "$(id -u)" = 0 ]; then
  trial=$(mktemp -d)
  trap 'rm -rf "$trial"' EXIT
  cp -a "$parts/rootfs/." "$trial/"
  mkdir -p "$trial/usr/local/bin"
  cp "$parts"/bin/* "$trial/usr/local/bin/"
  for binary in "${binaries[@]}"; do
    chroot "$trial" "/usr/local/bin/$binary" --version || fail "$binary does not start from the prepared parts"
  done
fi

echo "parts are in $parts ($(du -sh "$parts" | cut -f1))"
if [ "$parts_only" = no ]; then
  revision=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
  docker build --build-arg "REVISION=$revision" -f "$here/Dockerfile.local" -t "$image" "$parts"
fi
