#!/usr/bin/env bash
# The page in headless Chromium: sign-in, search, undo, live events, nothing loaded from elsewhere, axe-core, screenshots.
#   usage: page.sh path/to/otp-relay [FOLDER-FOR-SCREENSHOTS]
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need chromium nodejs curl
command -v npm >/dev/null || need npm
shots=${2:-$work/shots}
mkdir -p "$shots" "$work/node"
npm install --silent --no-audit --no-fund --prefix "$work/node" puppeteer-core@24 axe-core@4 >>"$work/npm.log" 2>&1
smtp_port=$(free_port) http_port=$(free_port)
make_keys app.test
start_dns "example.net MX 10 mx.example.net" "mx.example.net A 127.0.0.1" "late.test MX 10 mx.late.test" "mx.late.test A 127.0.0.1"
start_sink sink
{
  base_config | with_api "$http_port"
  printf '[[webhook]]\nurl = "http://127.0.0.1:1/hook?key=secret"\nsecret_file = "w.secret"\n'
  printf '[[user]]\nname = "shop"\nsenders = ["*@app.test"]\n%s\n' "$dkim_config"
} >"$work/relay.toml"
echo "whsec_$(head -c 32 /dev/urandom | base64)" >"$work/w.secret"
chmod 600 "$work/relay.toml" "$work/w.secret"
start_relay
wait_for 10 "the token" test -s "$work/data/api.token"
token=$(cat "$work/data/api.token")
api() { curl -sS -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "http://127.0.0.1:$http_port$1" "${@:2}"; }
send() { api /v1/messages -d "{\"from\":\"otp@app.test\",\"to\":\"$1\",\"otp\":{\"code\":\"481516\"},\"wait\":\"delivered\"}" >/dev/null; }
for n in 1 2 3 4 5 6 7 8; do send "user$n@example.net"; done
api /v1/suppressions/bob@example.net -X PUT -d '{"reason":"550 5.1.1 no such user"}' >/dev/null
sleep 6
cd "$work/node"
cp "$here/page.mjs" .
node page.mjs "http://127.0.0.1:$http_port" "$token" "$shots" | while read -r line; do echo "$line"; done
[ "${PIPESTATUS[0]}" = 0 ] || fail "a page that does what it should" "see above"
headers=$(curl -sSI "http://127.0.0.1:$http_port/" -X GET)
grep -qi "content-security-policy: default-src 'none'" <<<"$headers" || fail "a policy" "$headers"
grep -qi 'x-content-type-options: nosniff' <<<"$headers" || fail nosniff "$headers"
grep -qi 'cache-control: no-store' <<<"$(api /page/data -D - -o /dev/null)" || fail no-store "data that may be kept"
ok "policy, nosniff and no-store are there"
# The cookie alone changes nothing.
status() { curl -sS -o /dev/null -w '%{http_code}' "$@"; }
cookie="Cookie: otp_relay_token=$token"
[ "$(status -H "$cookie" "http://127.0.0.1:$http_port/v1/suppressions")" = 200 ] || fail "the cookie to read" "no"
[ "$(status -H "$cookie" -X DELETE "http://127.0.0.1:$http_port/v1/suppressions/bob@example.net")" = 401 ] || fail 401 "a change by the cookie alone"
ok "the cookie reads, and changes nothing without the page's header"
# A browser that came by TLS keeps the cookie on such ways.
sign_in() { curl -sS -o /dev/null -D - -H 'X-OTP-Page: 1' -H 'Content-Type: application/json' "http://127.0.0.1:$http_port/page/session" -d "{\"token\":\"$token\"}" "$@"; }
grep -qi 'set-cookie: .*; secure' <<<"$(sign_in -H 'X-Forwarded-Proto: https')" || fail "a cookie with Secure behind a proxy with TLS" "none"
grep -qi 'set-cookie: .*; secure' <<<"$(sign_in -H 'Origin: https://relay.app.test')" || fail "a cookie with Secure for a page by https" "none"
grep -qi 'set-cookie: .*; secure' <<<"$(sign_in)" && fail "a cookie without Secure in clear text" "Secure"
ok "the cookie has Secure where the page came by TLS"
# The same code by the command.
since=$(date +%s%N)
"$relay" trace user3@example.net -c "$work/relay.toml" >"$work/trace.txt" || fail "a code found by the command" "$(cat "$work/trace.txt")"
took=$(($(date +%s%N) - since))
grep -q ' 250' "$work/trace.txt" || fail "the reply in the timeline" "$(head -n 20 "$work/trace.txt")"
[ "$took" -lt 10000000000 ] || fail "10 s" "$took ns"
ok "otp-relay trace finds the same code in $((took / 1000000)) ms"
size=0
for path in / /page/page.css /page/page.js /page/data; do size=$((size + $(api $path | wc -c))); done
[ "$size" -lt 153600 ] || fail "150 KB" "$size"
ok "the page has $size bytes in all"
# A restart forgets no figure.
figures() { api /page/data | jq -c '.all | [.hour, (.chart_rows | map(.[1:])), (.providers | map([.name, .delivered, .p50_ms, .p95_ms]))]'; }
# The picture of the day is drawn anew every 30 s.
sleep 31
before=$(figures)
stop relay || true
start_relay
after=$(figures)
[ "$(jq -c '.[0].in_time > 8' <<<"$before")" = true ] || fail "codes in the figures" "$before"
[ "$before" = "$after" ] || fail "the figures of before the restart: $before" "$after"
ok "after a restart the figures are those of before: $(jq -c '.[0]' <<<"$after")"
