#!/bin/bash
# The packages: two equal builds, the list of what the program is made of, dpkg -i, upgrade and purge in a fresh chroot, lintian, rpm,
# the unit's exposure, the pages; and restarts behind a socket that the service manager holds, under load.
# RELAY has to be static: target/static/x86_64-unknown-linux-gnu/release/otp-relay, as packaging/build makes it.
# No systemd runs as process 1 here: what starts the unit is not shown, but the socket's protocol is.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need lintian debootstrap rpm mandoc file binutils
top=$(cd "$here/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
packages=$top/target/packages

# Times in packages are those of one moment, whatever is committed meanwhile.
SOURCE_DATE_EPOCH=$(git -C "$top" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
"$top/packaging/build" "$relay" >"$work/build1.log" 2>&1
cp "$packages/SHA256SUMS" "$work/first"
"$top/packaging/build" "$relay" >"$work/build2.log" 2>&1
cmp "$work/first" "$packages/SHA256SUMS" || fail "two equal sets of packages" "$(diff "$work/first" "$packages/SHA256SUMS" | head -n 4)"
ok "packing twice gives the same octets: $(wc -l <"$work/first") files"

size=$(stat -c %s "$packages/otp-relay")
file "$packages/otp-relay" | grep -Eq 'static.*stripped' || fail "a static, stripped program" "$(file "$packages/otp-relay")"
objcopy -O binary --only-section .dep-v0 --set-section-flags .dep-v0=alloc "$packages/otp-relay" "$work/dependencies"
listed=$("$python" -c 'import json,sys,zlib; d=json.loads(zlib.decompress(open(sys.argv[1],"rb").read())); assert any(p.get("root") for p in d["packages"]); print(len(d["packages"]))' "$work/dependencies")
ok "static and stripped, $((size >> 20)) MiB; .dep-v0 lists $listed packages"

exposure=$(systemd-analyze security --offline=true "$top/packaging/otp-relay.service" 2>/dev/null | sed -n 's/.*Overall exposure level for otp-relay.service: \([0-9.]*\).*/\1/p')
awk -v is="$exposure" 'BEGIN { exit !(is != "" && is <= 2.0) }' || fail "an exposure of at most 2.0" "$exposure"
ok "systemd-analyze security: exposure $exposure"
systemd-analyze verify "$top/packaging/otp-relay.socket" >"$work/verify.log" 2>&1 || true

for page in "$packages"/man/*; do
  mandoc -Tlint -Werror "$page" >>"$work/mandoc.log" 2>&1 || { grep -q ERROR "$work/mandoc.log" && fail "pages that mandoc reads" "$(grep ERROR "$work/mandoc.log" | head -n 3)"; }
done
ok "mandoc reads $(ls "$packages/man" | wc -l) pages"

deb=$packages/otp-relay_${version}_amd64.deb
lintian --tag-display-limit 0 "$deb" >"$work/lintian.log" 2>&1 || true
grep -q '^E:' "$work/lintian.log" && fail "no errors of lintian" "$(grep '^E:' "$work/lintian.log" | head -n 3)"
ok "lintian: no errors, $(grep -c '^W:' "$work/lintian.log" || true) warnings"

rpm -qpl "$packages/otp-relay-$version-1.x86_64.rpm" >"$work/rpm.log"
grep -qx /usr/bin/otp-relay "$work/rpm.log" || fail "the program in the .rpm" "$(head -n 3 "$work/rpm.log")"
rpm -qpc "$packages/otp-relay-$version-1.x86_64.rpm" | grep -qx /etc/otp-relay/relay.toml || fail "the configuration as one of the .rpm" "none"
ok ".rpm: $(wc -l <"$work/rpm.log") files"

root=$work/chroot
debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1
cp "$deb" "$root/tmp/relay.deb"
chroot "$root" dpkg -i /tmp/relay.deb >"$work/dpkg.log" 2>&1
chroot "$root" /usr/bin/otp-relay check --offline -c /etc/otp-relay/relay.toml >"$work/check.log" 2>&1 || fail "a configuration without errors" "$(tail -n 3 "$work/check.log")"
[ "$(chroot "$root" stat -c '%U:%G %a' /etc/otp-relay/relay.toml)" = "root:otp-relay 640" ] || fail "root:otp-relay 640" "$(chroot "$root" stat -c '%U:%G %a' /etc/otp-relay/relay.toml)"
ok "dpkg -i in a fresh chroot: user, configuration and program are there"
echo '# changed by the operator' >>"$root/etc/otp-relay/relay.toml"
# The next version, whose configuration differs, too.
mkdir "$work/next"
dpkg-deb -R "$deb" "$work/next"
sed -i "s/^Version: .*/Version: $version+1/" "$work/next/DEBIAN/control"
echo '# of the next version' >>"$work/next/etc/otp-relay/relay.toml"
dpkg-deb --root-owner-group -b "$work/next" "$root/tmp/next.deb" >/dev/null
chroot "$root" dpkg -i --force-confold /tmp/next.deb >>"$work/dpkg.log" 2>&1
grep -q 'changed by the operator' "$root/etc/otp-relay/relay.toml" || fail "the operator's configuration" "another"
ok "an upgrade keeps the operator's configuration"
mkdir -p "$root/var/lib/otp-relay/queue"
chroot "$root" dpkg --purge otp-relay >>"$work/dpkg.log" 2>&1
left=$(find "$root/etc/otp-relay" "$root/var/lib/otp-relay" "$root/usr/bin/otp-relay" "$root/lib/systemd/system/otp-relay.service" 2>/dev/null | head -n 3)
[ -z "$left" ] || fail "nothing after a purge" "$left"
ok "purge leaves nothing"

"$python" "$here/restarts.py" "$packages/otp-relay" "${RESTARTS:-200}" "$work" >"$work/restarts.log" 2>&1 || fail "no refused connection" "$(tail -n 3 "$work/restarts.log")"
ok "$(tail -n 1 "$work/restarts.log")"
