#!/bin/bash
# DKIM keys are changed under load, with two authoritative name servers (NSD) of which one lags behind: every message verifies
# (dkimpy and OpenDKIM, both signatures) at the moment when it arrives, by what each of the two servers shows then. The 24 h are not
# waited for: the first sight is set back in its file.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
RUNLEVEL=1 need nsd curl opendkim
venv "dkimpy[dnspython]" pynacl

smtp=2581 http=8581
first=127.0.0.71 second=127.0.0.72
mkdir -p "$work/mail" "$work/relay"
"$python" "$here/sink.py" "$work/mail" --busy-first >"$work/sink.port" 2>"$work/sink.log" &
pids[sink]=$!
for _ in $(seq 100); do [ -s "$work/sink.port" ] && break; sleep 0.1; done
mx=$(head -n 1 "$work/sink.port")

cat >"$work/relay/relay.toml" <<TOML
hostname = "relay.app.test"
[[listener]]
address = "127.0.0.1:$smtp"
auth = "trusted"
trusted_networks = ["127.0.0.0/8"]
[[user]]
name = "trusted"
senders = ["*@app.test"]
[[dkim]]
domain = "app.test"
selector = "otp1"
private_key = "certs/dkim/app.test.otp1.pem"
[[dkim]]
domain = "app.test"
selector = "otp1-ed25519"
private_key = "certs/dkim/app.test.otp1-ed25519.pem"
[http]
address = "127.0.0.1:$http"
[resolver]
nameservers = ["$first:53"]
dnssec = false
[delivery]
port = $mx
allow_private_destinations = true
[otp]
recipient_budget = "off"
TOML
otp() { "$relay" "$@" -c "$work/relay/relay.toml"; }
"$relay" dkim generate app.test otp1 --out "$work/relay/certs/dkim" | grep '_domainkey.* TXT' >"$work/old.records"
[ "$(wc -l <"$work/old.records")" = 2 ] || fail "two records" "$(cat "$work/old.records")"

# serve ADDRESS FILE...: the zone with these records at this address, in the place of what was there.
serial=0
serve() {
  local at=$1 folder=$work/nsd-$1 zone
  shift
  if [ -n "${pids[$at]:-}" ]; then kill "${pids[$at]}" 2>/dev/null || true; wait "${pids[$at]}" 2>/dev/null || true; fi
  mkdir -p "$folder"
  serial=$((serial + 1))
  for zone in app.test example.test; do
    {
      echo "\$ORIGIN $zone."
      echo "@ 60 IN SOA ns1.app.test. hostmaster.app.test. $serial 60 60 3600 5"
      echo "@ 60 IN NS ns1.app.test."
      echo "@ 60 IN NS ns2.app.test."
    } >"$folder/$zone"
  done
  { echo "ns1 60 IN A $first"; echo "ns2 60 IN A $second"; cat "$@"; } >>"$folder/app.test"
  { echo "@ 60 IN MX 10 mx"; echo "mx 60 IN A 127.0.0.1"; } >>"$folder/example.test"
  cat >"$folder/nsd.conf" <<CONF
server:
  ip-address: $at
  username: root
  zonesdir: "$folder"
  pidfile: "$folder/pid"
  xfrdfile: "$folder/xfrd"
  xfrdir: "$folder"
  database: ""
  zonelistfile: "$folder/zones"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: app.test
  zonefile: app.test
zone:
  name: example.test
  zonefile: example.test
CONF
  nsd -d -c "$folder/nsd.conf" >>"$work/nsd.log" 2>&1 &
  pids[$at]=$!
}

state() { "$python" -c 'import json,sys; d=json.load(open(sys.argv[1])); n=d.get("next") or {}; print("active" if d.get("active") else "seen" if n.get("seen_since") else "waits")' "$work/relay/data/dkim/app.test.json"; }
set_back() { "$python" -c 'import json,sys; p=sys.argv[1]; d=json.load(open(p)); d["next"]["seen_since"] -= 25*3600*1000; json.dump(d, open(p, "w"))' "$work/relay/data/dkim/app.test.json"; }
# look_until STATE: has the relay look, up to 30 s.
look_until() {
  local tries
  for tries in $(seq 15); do
    kill -HUP "${pids[relay]}"
    sleep 2
    [ "$(state)" = "$1" ] && return
  done
  fail "the state $1" "$(state)"
}

serve "$first" "$work/old.records"
serve "$second" "$work/old.records"
"$relay" serve -c "$work/relay/relay.toml" >>"$work/relay.log" 2>&1 &
pids[relay]=$!
for _ in $(seq 100); do "$relay" healthz --url "http://127.0.0.1:$http" >/dev/null 2>&1 && break; sleep 0.2; done
"$python" "$here/rotation.py" "$work" "$smtp" "$first" "$second" >"$work/load.out" 2>"$work/load.log" &
pids[load]=$!
sleep 5

otp dkim rotate app.test | grep '_domainkey.* TXT' >"$work/new.records"
[ "$(wc -l <"$work/new.records")" = 2 ] || fail "two next records" "$(cat "$work/new.records")"
cat "$work/old.records" "$work/new.records" >"$work/all.records"
serve "$first" "$work/all.records"
sleep 1
for _ in 1 2 3; do kill -HUP "${pids[relay]}"; sleep 2; done
[ "$(state)" = waits ] || fail "that one of two servers is not enough" "$(state)"
ok "with the records at one of two servers the relay waits"
serve "$second" "$work/all.records"
sleep 1
look_until seen
ok "with the records at both, the day begins"
set_back
serve "$second" "$work/old.records"
sleep 1
look_until waits
ok "a secondary that falls back to the old zone begins the wait anew, though the day was over"
serve "$second" "$work/all.records"
sleep 1
look_until seen
set_back
look_until active
ok "after a day of sight the next keys sign"
# They sign what is accepted from a minute on.
sleep 75
touch "$work/stop"
wait "${pids[load]}" || fail "every message verified" "$(tail -n 3 "$work/load.log")"
unset 'pids[load]'
ok "$(tail -n 1 "$work/load.out")"
listed=$(otp dkim record app.test)
grep -q "The old record otp1._domainkey.app.test has to stay until" <<<"$listed" || fail "the old record listed" "$listed"
ok "the old records are listed with the day from which on they may go"
