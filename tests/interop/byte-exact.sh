#!/usr/bin/env bash
# Odd messages, in by DATA and BDAT, out by DATA and BDAT, arrive octet for octet, and their signatures hold.
#   usage: byte-exact.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

venv wheel dkimpy pynacl
make_keys app.test
start_dns "$dkim_table" "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
smtp_port=$(free_port)
password=$(password_hash secret)

leg() { # DATA|BDAT [option of the sink]
  start_sink "sink-$1" "${@:2}"
  { base_config; printf '%s\n' '[[user]]' 'name = "shop"' "password_hash = \"$password\"" 'senders = ["*@app.test"]' "$dkim_config"; } >"$work/relay.toml"
  start_relay
  "$python" "$here/byte-exact.py" "$smtp_port" "$work/sink-$1" "$1" "$work/dns.table"
  shown=$((shown + 2))
  stop relay || fail "exit status 0 of the relay" "$?"
}
leg DATA
leg BDAT --chunking
