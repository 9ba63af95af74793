#!/usr/bin/env bash
# Every write and sync of a relay under load is recorded; then the disk is made up as a power cut at some moment could have
# left it, and the relay started on it. Everything it had said 250 to is there; and what a reader of its events had read
# before the cut has happened, and it goes on behind its cursor with none missing.
#   usage: power-cuts.sh path/to/otp-relay [CUTS] [SEED] [at-most-once]   (default: 40 cuts, another seed each time;
#   the last switches `deliver_at_most_once` on)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need strace
cuts=${2:-40}
seed=${3:-$SRANDOM}
mode=${4:-again}

# Nobody listens where silent.test has its mail host.
start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1" "silent.test MX 10 mx.silent.test" \
  "mx.silent.test A 127.0.0.9"
start_sink sink --chunking --keep index
smtp_port=$(free_port)
listener_options=$'tls = "none"\nauth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
senders=$'[[user]]\nname = "trusted"\nsenders = ["*@app.test"]'
# config: of both relays.
config() {
  base_config | { [ "$mode" = at-most-once ] && sed 's/^\[otp\]/&\ndeliver_at_most_once = true/' || cat; }
  echo "$senders"
}
http_port=$(free_port)
install -m 600 /dev/stdin "$work/token" <<<"$(head -c 32 /dev/urandom | base64)"
config | with_api "$http_port" "$work/token" >"$work/relay.toml"
acknowledged=$work/acknowledged
: >"$acknowledged"

# The disk that is made up knows nothing of what is there before the recording.
traced=openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat
start relay strace -f --seccomp-bpf -ttt -T -y -xx -s 16777216 -e "trace=$traced" -e signal=none -o "$work/trace" \
  "$relay" serve -c "$work/relay.toml"
wait_for 60 "the relay to listen" relay_is_up
start reader "$python" "$here/events_reader.py" follow "$http_port" "$work/token" "$work/events"
"$python" "$here/power-cuts.py" load "$smtp_port" 800 "$acknowledged" || fail "800 messages to be taken" "the above"
# Killed, so that the recording ends under way.
kill -9 "$(pgrep -P "${pids[relay]}")"
wait "${pids[relay]}" || true
unset 'pids[relay]'
stop reader || true

smtp_port=$(free_port)
http_port=$(free_port)
config | with_api "$http_port" "$work/token" | sed -e "s|^data_dir = .*|data_dir = \"$work/cut\"|" -e "s|^port = .*|port = $(free_port)|" >"$work/cut.toml"
counts=$("$python" "$here/power-cuts.py" replay "$work" "$work/data" "$cuts" "$seed" "$relay" "$mode") || fail "nothing lost" "$counts"
ok "$counts"
