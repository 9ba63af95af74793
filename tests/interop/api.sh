#!/usr/bin/env bash
# Schemathesis makes requests of /openapi.json, good and bad, with the operator's and with a user's token: nothing answers with
# 500, and every answer is one that the description has.
#   usage: api.sh path/to/otp-relay [EXAMPLES]      (10 of each request)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
examples=${2:-10}

need curl
python=${SCHEMATHESIS_PYTHON:-$python}
[ -n "${SCHEMATHESIS_PYTHON:-}" ] || venv schemathesis
start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink
smtp_port=$(free_port) http_port=$(free_port)
hash=$("$relay" user hash --token 2>"$work/token")
{
  base_config | with_api "$http_port"
  printf '%s\n' '[[user]]' 'name = "shop"' "token_hash = \"$hash\"" 'senders = ["*@app.test"]'
} >"$work/relay.toml"
start_relay
ready() { curl -sf "http://127.0.0.1:$http_port/readyz" >/dev/null; }
wait_for 20 "the API to be ready" ready

# All checks are on. What no schema can say is that an address exists or a key is free: refusals of well-formed requests are told by 422, 413 and
# the like, and streams of events have no end.
cat >"$work/schemathesis.toml" <<'CONFIG'
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "408", "409", "413", "415", "421", "422", "429", "503"]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "408", "409", "413", "415", "421", "422", "429", "503"]
missing_required_header.expected-statuses = ["400", "401", "403", "404", "422"]
CONFIG

# checked WHO TOKEN
checked() {
  # What it remembers of earlier runs stays in the folder that goes.
  (cd "$work" && "$(dirname "$python")/schemathesis" --config-file "$work/schemathesis.toml" run "http://127.0.0.1:$http_port/openapi.json" \
    --header "Authorization: Bearer $2" --header "X-Postmark-Server-Token: $2" --exclude-path /v1/events \
    --phases examples,coverage,fuzzing,stateful --max-examples "$examples" --seed 1 --generation-deterministic --request-timeout 35 \
    --no-color) >"$work/$1.log" 2>&1 || fail "no finding with the token of $1" "$(grep -v '^$' "$work/$1.log" | tail -n 60)"
  ok "$1: $(grep -oE '[0-9]+ generated, .*' "$work/$1.log")"
}
checked operator "$(cat "$work/data/api.token")"
checked user "$(sed 's/^token: //' "$work/token")"
ready || fail "the relay to answer afterwards" "nothing"
grep -q panicked "$work/relay.log" && fail "no panic" "$(grep -m 1 panicked "$work/relay.log")"
ok "the relay answers afterwards"
