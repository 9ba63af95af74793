#!/usr/bin/env bash
# A wildcard zone, served by NSD, whose hosts take everything and fall silent behind the final dot: more codes go there than
# the relay has sessions, and how long the codes of others take beside them.
#   usage: silent-zone.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
# Installing a name server must not start one.
RUNLEVEL=1 need nsd

smtp_port=$(free_port) dns_port=$(free_port)
start_sink sink
addresses=() && for network in {1..8}; do addresses+=("127.9.$network.1"); done

# Without MX each name is its own mail host (RFC 5321 section 5.1), so that one wildcard makes any number of destinations.
mkdir -p "$work/zones"
zone() { # NAME RECORD...
  printf '%s\n' '$TTL 300' "$1. SOA ns.$1. admin.$1. 1 3600 600 86400 60" "$1. NS ns.$1." "ns.$1. A 127.0.0.1" "${@:2}" >"$work/zones/$1"
}
zone silent.test "${addresses[@]/#/*.silent.test. A }"
zone known.test "known.test. MX 10 mx.known.test." "mx.known.test. A 127.0.0.1"
zone new.test "new.test. MX 10 mx.new.test." "mx.new.test. A 127.0.0.1"
{
  printf '%s\n' 'server:' "  ip-address: 127.0.0.1@$dns_port" '  username: ""' '  chroot: ""' "  zonesdir: \"$work/zones\"" \
    "  pidfile: \"$work/nsd.pid\"" '  database: ""' "  xfrdfile: \"$work/nsd.xfrd\"" "  xfrdir: \"$work\"" \
    "  zonelistfile: \"$work/nsd.zones\"" '  server-count: 1' 'remote-control:' '  control-enable: no'
  for served in silent.test known.test new.test; do printf '%s\n' 'zone:' "  name: \"$served\"" "  zonefile: \"$served\""; done
} >"$work/nsd.conf"
start nsd nsd -d -c "$work/nsd.conf"
wait_for 10 "NSD to listen" answers "$dns_port"
start silent "$python" "$here/silent_hosts.py" "$mx_port" "${addresses[@]}"
wait_for 10 "the silent hosts to listen" grep -qs listening "$work/silent.log"

listener_options=$'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
{ base_config; printf '%s\n' '[[user]]' 'name = "trusted"' 'senders = ["*@app.test"]'; } >"$work/relay.toml"
start_relay
readarray -t took < <(timeout 50 "$python" "$here/silent-zone.py" "$smtp_port" "$work/sink/index" 1050 2>"$work/client.log")
[ ${#took[@]} = 4 ] || fail "four figures" "${took[*]}"
files=$(find "/proc/${pids[relay]}/fd" -mindepth 1 | wc -l)
stop relay KILL || true
stop silent || true
out=$(tail -n 1 "$work/silent.log")
for which in 2 3; do
  [[ ${took[which]} != never && ${took[which]} -le 1000 ]] ||
    fail "a code for somebody else within 1000 ms (before: ${took[0]} ms)" "known host: ${took[2]} ms, new host: ${took[3]} ms; $out, $files descriptors"
done
ok "1,050 codes to a silent zone within ${took[1]} ms: $out, $files descriptors"
ok "a code to a host that took mail before: ${took[0]} ms before, ${took[2]} ms beside it; to a new host ${took[3]} ms"
