#!/bin/bash
# The packages: two builds in two folders are equal, the list of what the program is made of, the pages, lintian, .rpm, the unit's
# exposure; a fresh Debian 12 by debootstrap in which dpkg installs, upgrades, removes and purges the .deb and the program runs; and
# restarts behind a socket that the service manager holds, under load.
#
#   packages.sh RELAY [RELAY]
#
# RELAY has to be static: target/static/x86_64-unknown-linux-gnu/release/otp-relay, as packaging/build makes it. The second one is that
# of another build of the same commit, in another folder. BUILD=1 has the script build both itself, in clones, which takes long.
# No systemd runs as process 1 here: what starts the unit is not shown, but the socket's protocol is. podman builds the image and
# podman-compose runs it by the compose file; docker-compose reads that file, but no daemon of Docker runs it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need lintian debootstrap rpm mandoc man-db groff-base file binutils git podman crun buildah netcat-openbsd \
  containernetworking-plugins podman-compose docker-compose curl zsh fish systemd
top=$(cd "$here/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)

# Times in packages are those of one moment, whatever is committed meanwhile.
SOURCE_DATE_EPOCH=$(git -C "$top" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# pack FOLDER [RELAY]: in a clone of the commit.
pack() {
  git clone -q "$top" "$work/$1"
  (cd "$work/$1" && packaging/build "${@:2}") >"$work/$1.log" 2>&1
}
if [ -n "${BUILD:-}" ]; then
  pack one
  pack a-longer-name
else
  pack one "$relay"
  pack a-longer-name "${2:-$relay}"
fi
packages=$work/one/target/packages
cmp "$packages/SHA256SUMS" "$work/a-longer-name/target/packages/SHA256SUMS" ||
  fail "two equal sets of packages" "$(diff "$packages/SHA256SUMS" "$work/a-longer-name/target/packages/SHA256SUMS" | head -n 4)"
of="packings of one program"
[ -z "${BUILD:-}${2:-}" ] || of="builds in two folders"
ok "two $of are equal octet by octet: $(wc -l <"$packages/SHA256SUMS") files"
rm -rf "$work/a-longer-name"

size=$(stat -c %s "$packages/otp-relay")
file "$packages/otp-relay" | grep -Eq 'static.*stripped' || fail "a static, stripped program" "$(file "$packages/otp-relay")"
objcopy -O binary --only-section .dep-v0 --set-section-flags .dep-v0=alloc "$packages/otp-relay" "$work/dependencies"
listed=$("$python" -c 'import json,sys,zlib; d=json.loads(zlib.decompress(open(sys.argv[1],"rb").read())); assert any(p.get("root") for p in d["packages"]); print(len(d["packages"]))' "$work/dependencies")
ok "static and stripped, $((size >> 20)) MiB; .dep-v0 lists $listed packages"

exposure=$(systemd-analyze security --offline=true "$top/packaging/otp-relay.service" 2>/dev/null | sed -n 's/.*Overall exposure level for otp-relay.service: \([0-9.]*\).*/\1/p')
awk -v is="$exposure" 'BEGIN { exit !(is != "" && is <= 2.0) }' || fail "an exposure of at most 2.0" "$exposure"
mkdir "$work/units"
sed "s|/usr/bin/otp-relay|$packages/otp-relay|" "$top/packaging/otp-relay.service" >"$work/units/otp-relay.service"
cp "$top/packaging/otp-relay.socket" "$work/units/"
systemd-analyze verify --man=no "$work/units/otp-relay.service" "$work/units/otp-relay.socket" >"$work/verify.log" 2>&1 && [ ! -s "$work/verify.log" ] ||
  fail "units without a complaint of systemd-analyze verify" "$(head -n 3 "$work/verify.log")"
ok "systemd-analyze verify has nothing to say of unit and socket; security: exposure $exposure"

for page in "$packages"/man/*; do
  mandoc -Tlint -W error "$page" >"$work/mandoc.log" 2>&1 || fail "pages without errors" "$(head -n 3 "$work/mandoc.log")"
  MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l "$page" 2>"$work/man.log" >/dev/null
  groff -Tutf8 -ww -man "$page" 2>>"$work/man.log" >/dev/null
  [ ! -s "$work/man.log" ] || fail "pages that groff sets without a warning" "$(head -n 2 "$work/man.log")"
done
ok "mandoc and groff read $(ls "$packages/man" | wc -l) pages: one for each command, and relay.toml(5)"

for shell in bash zsh fish; do
  "$packages/otp-relay" completions "$shell" >"$work/completions.$shell"
  "$shell" -n "$work/completions.$shell" 2>"$work/completions.log" || fail "completions that $shell reads" "$(head -n 2 "$work/completions.log")"
done
offered=$(fish -c "source $work/completions.fish; complete -C 'otp-relay dk'")
[[ $offered == dkim* ]] || fail "dkim behind dk" "$offered"
ok "completions: bash, zsh and fish read theirs; fish offers ${offered%%$'\t'*} behind dk"

deb=$packages/otp-relay_${version}_amd64.deb
lintian --tag-display-limit 0 "$deb" >"$work/lintian.log" 2>&1 || true
grep -q '^E:' "$work/lintian.log" && fail "no errors of lintian" "$(grep '^E:' "$work/lintian.log" | head -n 3)"
ok "lintian: no errors, $(grep -c '^W:' "$work/lintian.log" || true) warnings"

rpm -qpl "$packages/otp-relay-$version-1.x86_64.rpm" >"$work/rpm.log"
grep -qx /usr/bin/otp-relay "$work/rpm.log" || fail "the program in the .rpm" "$(head -n 3 "$work/rpm.log")"
says '^/etc/otp-relay/relay.toml$' rpm -qpc "$packages/otp-relay-$version-1.x86_64.rpm" || fail "the configuration as one of the .rpm" "none"
ok ".rpm: $(wc -l <"$work/rpm.log") files"

# --- A machine
root=$work/chroot
debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1
inside() { chroot "$root" "$@"; }
left() { (cd "$root" && find etc var/lib usr lib opt srv -path '*otp-relay*' ! -path 'var/lib/dpkg/*' | sort); }
cp "$deb" "$root/tmp/relay.deb"
inside dpkg -i /tmp/relay.deb >"$work/dpkg.log" 2>&1
inside otp-relay check --offline -c /etc/otp-relay/relay.toml >"$work/check.log" 2>&1 || fail "a configuration without errors" "$(tail -n 3 "$work/check.log")"
mode=$(inside stat -c '%U:%G %a' /etc/otp-relay/relay.toml)
[ "$mode" = "root:otp-relay 640" ] || fail "root:otp-relay 640" "$mode"
for unit in sockets.target.wants/otp-relay.socket multi-user.target.wants/otp-relay.service; do
  [ -L "$root/etc/systemd/system/$unit" ] || fail "that $unit is enabled" "it is not"
done
ok "dpkg -i in a fresh Debian 12: $(inside otp-relay --version), user, configuration and enabled units are there"
inside timeout 120 otp-relay demo --once >"$work/demo.log" 2>&1 || fail "the demo, once through" "$(tail -n 3 "$work/demo.log")"
[ "$(grep -c 'verified against the published key' "$work/demo.log")" = 2 ] || fail "two signatures in the demo" "$(tail -n 8 "$work/demo.log")"
ok "demo --once: $(grep '^The code arrived' "$work/demo.log")"
# Names of /etc/hosts and of users are looked up by the C library, which is linked in.
inside setpriv --reuid otp-relay --regid otp-relay --clear-groups sh -c \
  'otp-relay check --offline -c /etc/otp-relay/relay.toml && cd /tmp && otp-relay completions bash | bash -n && otp-relay user hash --generate' \
  >>"$work/check.log" 2>&1 || fail "that the relay's user can read the configuration" "$(tail -n 3 "$work/check.log")"
ok "the user otp-relay reads the configuration; others do not"
inside setpriv --reuid nobody --regid nogroup --clear-groups cat /etc/otp-relay/relay.toml >>"$work/check.log" 2>&1 && fail "that nobody else reads it" "nobody does"

# --- The next version, whose configuration differs, too
echo '# changed by the operator' >>"$root/etc/otp-relay/relay.toml"
mkdir -p "$root/etc/otp-relay/certs" "$root/var/lib/otp-relay/queue"
echo key >"$root/etc/otp-relay/certs/of-the-operator.pem"
systemctl --root="$root" disable otp-relay.socket >>"$work/dpkg.log" 2>&1
mkdir "$work/next"
dpkg-deb -R "$deb" "$work/next"
sed -i "s/^Version: .*/Version: $version+1/" "$work/next/DEBIAN/control"
echo '# of the next version' >>"$work/next/etc/otp-relay/relay.toml"
dpkg-deb --root-owner-group -b "$work/next" "$root/tmp/next.deb" >/dev/null
inside dpkg -i --force-confold /tmp/next.deb >>"$work/dpkg.log" 2>&1
grep -q 'changed by the operator' "$root/etc/otp-relay/relay.toml" || fail "the operator's configuration" "another"
[ ! -L "$root/etc/systemd/system/sockets.target.wants/otp-relay.socket" ] || fail "that what was disabled stays so" "it is enabled"
[ "$(inside dpkg-query -W -f '${Version}' otp-relay)" = "$version+1" ] || fail "the next version" "$(inside dpkg-query -W otp-relay)"
ok "an upgrade keeps the operator's configuration, and disabled what was disabled"
inside dpkg --remove otp-relay >"$work/remove.log" 2>&1
[ ! -e "$root/usr/bin/otp-relay" ] && [ -d "$root/var/lib/otp-relay/queue" ] || fail "that the program goes and the data stays" "$(left | head -n 3)"
grep -q 'dpkg --purge otp-relay takes them away' "$work/remove.log" || fail "that it says what stays" "$(cat "$work/remove.log")"
inside dpkg -i /tmp/next.deb >>"$work/dpkg.log" 2>&1
grep -q 'changed by the operator' "$root/etc/otp-relay/relay.toml" || fail "the configuration after a remove" "another"
ok "remove leaves configuration and data, and says so; installed again, it goes on with them"
inside dpkg --purge otp-relay >"$work/purge.log" 2>&1
[ "$(left)" = $'etc/otp-relay\netc/otp-relay/certs\netc/otp-relay/certs/of-the-operator.pem' ] || fail "only the operator's own file after a purge" "$(left | head -n 5)"
grep -q 'what is not of the package stays in /etc/otp-relay' "$work/purge.log" && grep -q 'the user otp-relay stays' "$work/purge.log" ||
  fail "that it says what stays" "$(cat "$work/purge.log")"
rm -rf "$root/etc/otp-relay"
inside dpkg -i /tmp/relay.deb >>"$work/dpkg.log" 2>&1
inside dpkg --purge otp-relay >"$work/purge.log" 2>&1
[ -z "$(left)" ] || fail "nothing after a purge" "$(left | head -n 5)"
ok "purge leaves nothing of its own, and says that the operator's files and the user stay"

# The .rpm in the same machine, by the rpm of this one: there is nothing that it depends on but /bin/sh and useradd.
rpm=(rpm --root "$root" --nodeps) package=$packages/otp-relay-$version-1.x86_64.rpm
rpm --root "$root" --initdb
"${rpm[@]}" -i "$package" >"$work/rpm.log" 2>&1
"${rpm[@]}" -V otp-relay >>"$work/rpm.log" 2>&1 || fail "files as the .rpm has them" "$(tail -n 3 "$work/rpm.log")"
inside otp-relay check --offline -c /etc/otp-relay/relay.toml >"$work/check.log" 2>&1 || fail "a configuration without errors" "$(tail -n 3 "$work/check.log")"
mode=$(inside stat -c '%U:%G %a' /etc/otp-relay/relay.toml)
[ "$mode" = "root:otp-relay 640" ] || fail "root:otp-relay 640" "$mode"
echo '# changed by the operator' >>"$root/etc/otp-relay/relay.toml"
"${rpm[@]}" -U --force "$package" >>"$work/rpm.log" 2>&1
grep -q 'changed by the operator' "$root/etc/otp-relay/relay.toml" || fail "the operator's configuration" "another"
"${rpm[@]}" -e otp-relay >>"$work/rpm.log" 2>&1
[ "$(left)" = $'etc/otp-relay\netc/otp-relay/relay.toml.rpmsave' ] || fail "only the operator's configuration after a removal" "$(left | head -n 5)"
ok ".rpm: installed by rpm into the same machine, verified, installed again with the operator's configuration kept, removed"

# --- The image and the compose file, by podman in a mount namespace of its own, since it wants the second form of control groups and
# nothing else. Without systemd nothing asks for the health by itself: podman is told to, once.
tar -xf "$packages/otp-relay-image.tar" -C "$work"
smtp_port=$(free_port) http_port=$(free_port)
compose=$work/image/compose.yaml
sed -i "s/127.0.0.1:587:/127.0.0.1:$smtp_port:/; s/127.0.0.1:8587:/127.0.0.1:$http_port:/" "$compose"
printf '%s\n' 'services:' '  otp-relay:' '    ulimits:' '      nofile: 20000' '      nproc: 1024' >"$work/image/here.yaml"
printf '%s\n' 'hostname = "relay.app.test"' '[[listener]]' 'address = "0.0.0.0:587"' '[http]' 'address = "0.0.0.0:8587"' >"$work/image/relay.toml"
mkdir "$work/container"
docker-compose -f "$compose" config --quiet >"$work/compose.log" 2>&1 || fail "a compose file that docker-compose takes" "$(tail -n 3 "$work/compose.log")"
cat >"$work/container/run" <<'SH'
set -euo pipefail
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
options="--root $work/container/root --runroot $work/container/runs --storage-driver vfs --cgroup-manager cgroupfs --events-backend file --runtime crun"
pod() { podman $options "$@"; }
pod build --format docker --isolation chroot -t otp-relay "$work/image" >"$work/image.log" 2>&1
relay=image_otp-relay_1
undo() {
  pod rm -f -t 1 "$relay" || true
  pod volume rm image_data || true
  pod network rm image_default || true
}
trap 'undo >>"$work/image.log" 2>&1' EXIT
(cd "$work/image" && podman-compose --podman-args "$options" --podman-run-args "--cgroups=disabled --health-interval=disable" \
  -f compose.yaml -f here.yaml up -d) >>"$work/image.log" 2>&1
for _ in $(seq 300); do pod healthcheck run "$relay" >>"$work/image.log" 2>&1 && break; sleep 0.1; done
pod inspect -f '{{.State.Health.Status}}' "$relay" >"$work/container/health"
pid=$(pod inspect -f '{{.State.Pid}}' "$relay")
grep -E '^(Uid|CapEff|CapPrm|NoNewPrivs):' "/proc/$pid/status" | tr -s '\t\n' '  ' >"$work/container/status"
awk '$2 == "/" { print $4 }' "/proc/$pid/mounts" | cut -d , -f 1 >"$work/container/mount"
stat -c '%u:%g %a' "/proc/$pid/root/var/lib/otp-relay" >"$work/container/owner"
echo QUIT | timeout 10 nc -q 5 127.0.0.1 "$smtp_port" >"$work/container/banner" || true
curl -s -m 10 "http://127.0.0.1:$http_port/readyz" >"$work/container/ready" || true
pod stop -t 30 "$relay" >>"$work/image.log" 2>&1
pod wait "$relay" >"$work/container/exit" 2>>"$work/image.log"
pod logs "$relay" >"$work/relay.log" 2>&1
SH
export work smtp_port http_port
unshare -m bash "$work/container/run" >"$work/container.log" 2>&1 || fail "an image that runs" "$(tail -n 3 "$work/container.log" "$work/image.log")"
[ "$(cat "$work/container/health")" = healthy ] || fail "a healthy container" "$(cat "$work/container/health")"
[[ $(cat "$work/container/status") == "Uid: 65532 65532 65532 65532 CapPrm: 0000000000000000 CapEff: 0000000000000000 NoNewPrivs: 1"* ]] ||
  fail "user 65532 without capabilities" "$(cat "$work/container/status")"
[ "$(cat "$work/container/mount")" = ro ] || fail "a read-only root" "$(cat "$work/container/mount")"
[ "$(cat "$work/container/owner")" = "65532:65532 700" ] || fail "a volume of the relay's user" "$(cat "$work/container/owner")"
grep -q '^220 relay.app.test' "$work/container/banner" || fail "a banner at port 587 of the container" "$(cat "$work/container/banner")"
[ "$(cat "$work/container/ready")" = ready ] || fail "ready over HTTP" "$(cat "$work/container/ready")"
[ "$(cat "$work/container/exit")" = 0 ] || fail "exit status 0 after SIGTERM" "$(cat "$work/container/exit")"
ok "the image FROM scratch by podman-compose, as compose.yaml says: HEALTHCHECK is healthy, user 65532, a new volume, port 587, no capabilities, read-only root, ends with 0"

"$python" "$here/restarts.py" "$packages/otp-relay" "${RESTARTS:-200}" "$work" >"$work/restarts.log" 2>&1 || fail "no refused connection" "$(tail -n 3 "$work/restarts.log")"
ok "$(tail -n 1 "$work/restarts.log")"
