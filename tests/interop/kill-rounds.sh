#!/usr/bin/env bash
# The relay is killed by SIGKILL under load, again and again, and started on the same data directory. Everything it has said
# 250 to arrives, with its content; and a reader of its events that keeps its cursor sees every end once and in order.
#   usage: kill-rounds.sh path/to/otp-relay [ROUNDS] [at-most-once]        (default: 20; the last switches
#   `deliver_at_most_once` on: then nothing arrives twice, and what may have arrived ends with its outcome unknown)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
rounds=${2:-20}

make_keys app.test
start_dns "$dkim_table" "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
# Slower than the clients, so that every kill finds mail in the queue.
start_sink sink --chunking --keep index --pause-ms 50
smtp_port=$(free_port)
listener_options=$'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
logs=()
http_port=$(free_port)
install -m 600 /dev/stdin "$work/token" <<<"$(head -c 32 /dev/urandom | base64)"
{ base_config | with_api "$http_port" "$work/token"; echo "$dkim_config"; } >"$work/relay.toml"
if [ "${3:-}" = at-most-once ]; then
  sed -i 's/^\[otp\]/&\ndeliver_at_most_once = true/' "$work/relay.toml"
  logs=("$work/unknown" "$work/relay.log")
  touch "$work/unknown"
fi
taken_up=0
note_taken_up() {
  local messages
  messages=$(jq -R 'fromjson? | select(.message == "taken up from the queue").messages | tonumber' "$work/relay.log")
  taken_up=$((taken_up + ${messages:-0}))
}
start reader "$python" "$here/events_reader.py" follow "$http_port" "$work/token" "$work/events"

for round in $(seq "$rounds"); do
  kill_under_load "$round" 1800
  note_taken_up
  grep '"outcome_unknown"' "$work/relay.log" >>"$work/unknown" || true
  # The other events of the rounds are of no interest unless one fails.
  echo "round $round: killed after $milliseconds ms, $(in_round "$round") acknowledged"
  : >"$work/relay.log"
done

start_relay
note_taken_up
counts=$("$python" "$here/kill-rounds.py" check "$acknowledged" "$work/sink/index" 120 "${logs[@]}") || fail "everything acknowledged to arrive" "$counts"
read=$("$python" "$here/events_reader.py" check "$work/events" "$acknowledged" 240) || fail "every end to be read, once and in order" "$read"
ok "$rounds rounds of SIGKILL under load over 16 connections: $counts; $taken_up taken up from the queue at a start"
ok "a reader of the events meanwhile: $read"
stop relay || fail "exit status 0 of the relay" "$?"
