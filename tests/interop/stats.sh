#!/usr/bin/env bash
# Statistics are equal to what was sent, over kills and restarts: the relay is killed by SIGKILL under load, again and again, and in the
# end /v1/stats counts each recipient that the mail host saw once as accepted and once as delivered; after one more kill and start the
# answer is the same to the octet.
#   usage: stats.sh path/to/otp-relay [ROUNDS]        (default: 10)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
rounds=${2:-10}
need curl jq

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking --keep index --pause-ms 20
smtp_port=$(free_port) http_port=$(free_port)
listener_options=$'tls = "none"\nauth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
head -c 32 /dev/urandom | base64 >"$work/token"
chmod 600 "$work/token"
{
  base_config | with_api "$http_port" "$work/token"
  printf '%s\n' '[[user]]' 'name = "trusted"' 'senders = ["*@app.test"]'
} >"$work/relay.toml"
ask() { curl -sf -H "Authorization: Bearer $(cat "$work/token")" "http://127.0.0.1:$http_port$1"; }
is_empty() { [ "$(ask /v1/queue | jq '.messages | length')" = 0 ]; }

began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
for round in $(seq "$rounds"); do kill_under_load "$round" 1300; done
start_relay
wait_for 120 "everything to be delivered" is_empty
seen=$(jq -r '.to[]' "$work/sink/index" | sort -u | wc -l)
copies=$(jq -r '.to[]' "$work/sink/index" | wc -l)
lost=$(comm -23 <(sed 's/$/@example.test/' "$acknowledged" | sort -u) <(jq -r '.to[]' "$work/sink/index" | sort -u) | wc -l)
[ "$lost" = 0 ] || fail "everything acknowledged at the mail host" "$lost missing"
until=$(date -u +%Y-%m-%dT%H:%M:%SZ -d '+1 second')
stats() { ask "/v1/stats?from=$began&to=$until&by=$1"; }
stats lane >"$work/before"
read -r accepted delivered in_time late others < <(jq -r '.total | [.accepted, .delivered, .in_time, .late,
  .expired + .superseded + .cancelled + ([.failed[]] | add // 0)] | @tsv' "$work/before")
for what in "accepted $accepted" "delivered $delivered" "in_time_and_late $((in_time + late))"; do
  [ "${what#* }" = "$seen" ] || fail "$seen, as many recipients as the mail host saw" "$what"
done
[ "$others" = 0 ] || fail "no other end" "$others"
ok "$rounds rounds of SIGKILL: accepted $accepted, delivered $delivered; the mail host saw $seen recipients ($copies copies), $(wc -l <"$acknowledged") were acknowledged"
for by in lane user destination; do
  sum=$(stats "$by" | jq -c '[([.groups[].total.delivered] | add), ([.groups[].series[].delivered] | add)]')
  [ "$sum" = "[$seen,$seen]" ] || fail "groups and steps by $by to make [$seen,$seen]" "$sum"
done
ok "groups and steps by lane, user and destination make the same"
stop relay KILL || true
: >"$work/relay.log"
start_relay
ask /readyz >/dev/null
stats lane >"$work/after"
cmp -s "$work/before" "$work/after" || fail "the same answer after one more kill" "$(diff <(jq . "$work/before") <(jq . "$work/after") | head -n 10)"
ok "after one more SIGKILL and start the answer is the same to the octet"
stop relay || fail "exit status 0 of the relay" "$?"
