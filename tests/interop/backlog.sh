#!/usr/bin/env bash
# 200 MB of events that wait for a webhook nobody answers: two relays side by side, one of them with that backlog. In turn each
# delivers codes at the same rate; the table says how long they took.
#   usage: backlog.sh path/to/otp-relay [ROUNDS] [MB] [RATE]        (default: 9 pairs, 200 MB, 100 codes a second)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
rounds=${2:-9} wanted=${3:-200} rate=${4:-100}

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking --keep index
listener_options=$'tls = "none"\nauth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
install -m 600 /dev/stdin "$work/token" <<<"$(head -c 32 /dev/urandom | base64)"
install -m 600 /dev/stdin "$work/hook.secret" <<<"whsec_$(head -c 24 /dev/urandom | base64)"
declare -A smtp http
for side in without with; do
  smtp_port=$(free_port)
  smtp[$side]=$smtp_port http[$side]=$(free_port)
  { base_config | with_api "${http[$side]}" "$work/token" | sed "s|^data_dir = .*|data_dir = \"$work/$side\"|"
    printf '[[user]]\nname = "trusted"\nsenders = ["*@app.test"]\n'; } >"$work/$side.toml"
done
printf '[[webhook]]\nurl = "http://127.0.0.1:9/dead"\nsecret_file = "%s"\n' "$work/hook.secret" >>"$work/with.toml"
for side in without with; do
  start "$side" "$relay" serve -c "$work/$side.toml"
  wait_for 20 "the relay $side" answers "${smtp[$side]}"
done

filled=$("$python" "$here/backlog.py" fill "${smtp[with]}" "${http[with]}" "$work/token" "$wanted") || fail "a backlog of $wanted MB" "$filled"
! grep -q 'events were lost\|were not read in time' "$work/with.log" || fail "no event lost" "$(grep -m 1 'lost\|in time' "$work/with.log")"
ok "$filled"
table=$("$python" "$here/backlog.py" pairs "${smtp[without]}" "${smtp[with]}" "$work/sink/index" "$rounds" "$rate") || fail "every code to arrive" "$table"
echo "$table"
"$relay" -c "$work/with.toml" webhook list
ok "$rounds pairs of 10 s at $rate codes a second"
