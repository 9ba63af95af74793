#!/bin/bash
# `backup` on one machine and `restore` on an empty one, where the relay's user has another number: two mount namespaces with nothing
# in /opt and /srv. The restored relay signs with the same keys (dkimpy, by the records of the first), shows the same certificate, knows
# the same suppressions, tokens and the change of DKIM keys that was under way, and nothing of the queue.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need curl openssl util-linux
venv "dkimpy[dnspython]" pynacl

smtp_port=$(free_port) http_port=$(free_port)
token=the-token-of-the-shop-0123456789abcdef
start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink
token_hash=$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)
cat >"$work/relay.toml" <<TOML
hostname = "relay.app.test"
data_dir = "/srv/relay"
[[listener]]
address = "127.0.0.1:$smtp_port"
auth = "trusted"
trusted_networks = ["127.0.0.0/8"]
[[user]]
name = "trusted"
senders = ["*@app.test"]
token_hash = "$token_hash"
[[dkim]]
domain = "app.test"
selector = "otp1"
private_key = "certs/dkim/app.test.otp1.pem"
[[dkim]]
domain = "app.test"
selector = "otp1-ed25519"
private_key = "certs/dkim/app.test.otp1-ed25519.pem"
[http]
address = "127.0.0.1:$http_port"
[resolver]
nameservers = ["127.0.0.1:$dns_port"]
dnssec = false
[delivery]
port = $mx_port
allow_private_destinations = true
TOML

cat >"$work/submit.py" <<'PYTHON'
import sys
import smtp_client
to = sys.argv[2]
try:
    with smtp_client.Client(int(sys.argv[1])) as client:
        client.greet()
        client.envelope("otp@app.test", [to])
        client.data(f"From: otp@app.test\r\nTo: <{to}>\r\nDate: Sat, 28 Nov 2026 15:30:00 +0000\r\nSubject: code\r\n\r\n481516\r\n".encode())
        print("250")
except smtp_client.Refused as refused:
    print(refused)
PYTHON

# What both machines do.
cat >"$work/machine" <<'SH'
set -euo pipefail
mount -t tmpfs none /opt
mount -t tmpfs none /srv
{ grep -v '^otp-relay:' /etc/passwd; echo "otp-relay:x:$number:$number::/srv/relay:/usr/sbin/nologin"; } >"$work/passwd.$number"
{ grep -v '^otp-relay:' /etc/group; echo "otp-relay:x:$number:"; } >"$work/group.$number"
mount --bind "$work/passwd.$number" /etc/passwd
mount --bind "$work/group.$number" /etc/group
otp() { "$relay" "$@" -c /opt/relay/relay.toml; }
# begin: the relay as its user.
begin() {
  setpriv --reuid otp-relay --regid otp-relay --clear-groups "$relay" serve -c /opt/relay/relay.toml >>"$work/relay.$number.log" 2>&1 &
  relay_pid=$!
  trap 'kill -9 $relay_pid 2>/dev/null || true' EXIT
  for _ in $(seq 300); do "$relay" healthz --url "http://127.0.0.1:$http_port" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "the relay of user $number did not start" >&2
  exit 1
}
end() { kill "$relay_pid"; wait "$relay_pid"; }
submit() { "$python" "$work/submit.py" "$smtp_port" "$1"; }
arrived() { for _ in $(seq 200); do grep -q "$1" "$work/sink/index" && return; sleep 0.1; done; }
# What is to be the same on both.
seen() {
  otp dkim record app.test >"$work/records.$number"
  otp suppression list >"$work/suppressions.$number"
  sha256sum </srv/relay/api.token >"$work/token.$number"
  curl -s -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $token" "http://127.0.0.1:$http_port/v1/queue" >"$work/shop.$number"
  openssl s_client -connect "127.0.0.1:$smtp_port" -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256 >"$work/certificate.$number"
  jq -cS . /srv/relay/dkim/app.test.json >"$work/rotation.$number"
}
SH
cat >"$work/first" <<'SH'
. "$work/machine"
install -d -o root -g otp-relay -m 750 /opt/relay
install -o root -g otp-relay -m 640 "$work/relay.toml" /opt/relay/relay.toml
install -d -o otp-relay -g otp-relay -m 700 /srv/relay
"$relay" dkim generate app.test otp1 --out /opt/relay/certs/dkim >/dev/null 2>&1
chown -R otp-relay:otp-relay /opt/relay/certs
begin
otp dkim rotate app.test >/dev/null
otp suppression add blocked@example.test >/dev/null
submit first@example.test >"$work/submitted.first"
arrived first@
seen
otp backup "$work/backup.tar" >"$work/backup.log"
end
otp backup "$work/stopped.tar" >>"$work/backup.log"
SH
cat >"$work/second" <<'SH'
. "$work/machine"
"$relay" restore "$work/backup.tar" >"$work/restore.log"
stat -c '%U:%G %a %n' /opt/relay /opt/relay/relay.toml /opt/relay/certs/dkim/*.pem /srv/relay /srv/relay/dkim/*.pem /srv/relay/api.token >"$work/owners"
find /srv/relay ! -user otp-relay >"$work/foreign"
"$relay" restore "$work/backup.tar" >"$work/again.log" 2>&1 && exit 9
begin
submit second@example.test >"$work/submitted.second"
submit blocked@example.test >"$work/submitted.blocked"
arrived second@
seen
end
SH
export work relay smtp_port http_port token python
number=7001 unshare -m bash "$work/first" >"$work/first.log" 2>&1 || fail "a backup" "$(tail -n 3 "$work/first.log")"
[ "$(stat -c %a "$work/backup.tar")" = 600 ] || fail "mode 600" "$(stat -c %a "$work/backup.tar")"
tar -tf "$work/backup.tar" | sort >"$work/names"
grep -qE '^data/(queue|keys|traces|stats|webhooks|lock|daily-secrets|code-keys)' "$work/names" && fail "no queue, keys of content or traces" "$(cat "$work/names")"
tar -tf "$work/stopped.tar" | sort | diff "$work/names" - >"$work/diff.log" || fail "the same from a stopped relay" "$(cat "$work/diff.log")"
ok "backup: mode 600, $(wc -l <"$work/names") files, none of the queue; from a running relay and a stopped one"
number=7002 unshare -m bash "$work/second" >"$work/second.log" 2>&1 || fail "a restored relay" "$(tail -n 3 "$work/second.log")"
[ ! -s "$work/foreign" ] || fail "all of the data directory to be the relay's" "$(cat "$work/foreign")"
[ "$(head -n 2 "$work/owners")" = $'root:otp-relay 750 /opt/relay\nroot:otp-relay 640 /opt/relay/relay.toml' ] || fail "owners as they were" "$(cat "$work/owners")"
[ "$(tail -n +3 "$work/owners" | cut -d ' ' -f 1 | sort -u)" = otp-relay:otp-relay ] || fail "keys of the relay's user" "$(cat "$work/owners")"
ok "restore on an empty machine, where the user has another number: files are of the same names, with the same modes"
grep -q "nothing was restored, since these are there already" "$work/again.log" || fail "that nothing is overwritten" "$(cat "$work/again.log")"
ok "a second restore is refused without --force"
for what in records suppressions token shop certificate rotation; do
  cmp -s "$work/$what.7001" "$work/$what.7002" || fail "the same $what" "$(head -c 300 "$work/$what.7001" "$work/$what.7002")"
done
grep -q blocked@example.test "$work/suppressions.7002" || fail "a suppression" "$(cat "$work/suppressions.7002")"
[ "$(cat "$work/shop.7002")" = 200 ] || fail "the user's token to be taken" "$(cat "$work/shop.7002")"
[ -s "$work/certificate.7002" ] || fail "a certificate" none
ok "the same suppressions, tokens, certificate, and change of DKIM keys"
grep -q '^550.*suppressed' "$work/submitted.blocked" || fail "550 suppressed" "$(cat "$work/submitted.blocked")"
[ "$(cat "$work/submitted.first" "$work/submitted.second")" = $'250\n250' ] || fail "250 on both machines" "$(cat "$work/submitted.second")"
cat >"$work/verify.py" <<'PYTHON'
import json
import pathlib
import re
import sys

import dkim

work = pathlib.Path(sys.argv[1])
records = {}
for line in (work / "records.7001").read_text().splitlines():
    found = re.match(r"(\S+) \d+ IN TXT (.*)$", line)
    if found:
        records[found[1].encode()] = "".join(re.findall(r'"([^"]*)"', found[2])).encode()
index = [json.loads(line) for line in (work / "sink" / "index").read_text().splitlines()]
assert [entry["to"] for entry in index] == [["first@example.test"], ["second@example.test"]], index
for entry in index:
    octets = (work / "sink" / entry["file"]).read_bytes()
    for number in range(2):
        assert dkim.DKIM(octets).verify(idx=number, dnsfunc=lambda name, timeout=5: records[name]), (entry, number)
PYTHON
"$python" "$work/verify.py" "$work" >"$work/dkim.log" 2>&1 || fail "both signatures of both machines" "$(tail -n 3 "$work/dkim.log")"
ok "what the restored relay sends is signed with the same keys: dkimpy verifies it by the records of before"
