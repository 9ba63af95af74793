#!/usr/bin/env bash
# The system clock is set while codes wait for their next attempt (libfaketime sets it for the relay alone).
#   usage: clock.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need faketime swaks libnet-ssleay-perl
make_keys app.test
start_dns "$dkim_table" "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --busy-first
smtp_port=$(free_port)
listener_options=$'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]\n[[user]]\nname = "trusted"\nsenders = ["*@app.test"]'
{ base_config; printf '%s\n' "$dkim_config"; } >"$work/relay.toml"

preload=$(dpkg -L libfaketime | grep '/libfaketimeMT.so.1$')
set_clock() { printf '%s\n' "$1" >"$work/offset"; }
set_clock +0
export FAKETIME_TIMESTAMP_FILE=$work/offset FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
LD_PRELOAD=$preload start_relay

submit() { # RECIPIENT LIFE
  swaks --server "127.0.0.1:$smtp_port" --from otp@app.test --to "$1@example.test" --header "X-OTP-Life: $2" \
    --header "Subject: 481516 is your code" >>"$work/swaks.log" 2>&1 || fail "$1 to be accepted" "$(tail -n 3 "$work/swaks.log")"
}
time_of() { jq -r .time <<<"$1" | cut -c 1-13; }
now() { date -u -d "$1" +%Y-%m-%dT%H; }

for offset in -3600 -86400 +3600 +86400; do
  set_clock +0
  sleep 0.1
  who=n${offset//[-+]/}${offset:0:1}
  who=${who//+/f}
  who=${who//-/b}
  submit "busy-$who" 300
  submit "never-$who" 20
  expect_event 10 "the first refusal" ".event == \"deferred\" and .recipient == \"busy-$who@example.test\""
  set_clock "$offset"
  since=$SECONDS
  expect_event 25 "the delivery" ".event == \"delivered\" and .recipient == \"busy-$who@example.test\""
  [ "$(time_of "$seen")" = "$(now "$offset seconds")" ] || fail "the wall clock's hour in the log" "$(jq -r .time <<<"$seen")"
  expect_event 35 "the end of life" ".event == \"expired\" and .recipient == \"never-$who@example.test\""
  ok "the clock was set by $offset s: retried and delivered, the other life ended $((SECONDS - since)) s later; the log has the new time"
done
grep -q "the system clock was set back by 3600" "$work/relay.log" || fail "a warning" "$(grep -c WARN "$work/relay.log")"
ok "told: $(grep -o 'the system clock was set back by [^;]*' "$work/relay.log" | head -n 1)"
