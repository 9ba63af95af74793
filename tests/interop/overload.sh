#!/usr/bin/env bash
# Floods of every kind, one after the other; while each goes on, an app's codes still pass. Prints how long they take, how
# many attackers got what, and how much memory the relay needs.
#   usage: overload.sh path/to/otp-relay [SECONDS [WORDS]]        (default: 3, for each flood; all floods)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
smtp_port=$(free_port) mx_port=$(free_port)
{
  base_config
  for user in shop bulk; do
    printf '%s\n' '[[user]]' "name = \"$user\"" "password_hash = \"$(password_hash "secret of $user")\"" 'senders = ["*@app.test"]'
  done
} >"$work/relay.toml"
start_relay
"$python" "$here/overload.py" "$smtp_port" "$mx_port" "${pids[relay]}" "${2:-3}" "${3:-}" | tee "$work/table" || fail "codes to pass" "see above"
ok "codes pass while $(grep -v '^nothing' "$work/table" | grep -c ' ms ') floods go on"
stop relay || fail "exit status 0 of the relay" "$?"
