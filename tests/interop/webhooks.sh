#!/usr/bin/env bash
# Webhooks are verified by programs of others, unmodified: npm's and PyPI's standardwebhooks, and PyPI's svix. They come in order and none
# is lost, also where the relay is killed under load, and one dead endpoint delays no other.
#   usage: webhooks.sh path/to/otp-relay [ROUNDS]        (rounds of SIGKILL; default: 30)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
rounds=${2:-30}
command -v npm >/dev/null || need nodejs npm
venv standardwebhooks svix
(cd "$work" && npm install --silent --no-audit --no-fund standardwebhooks) >>"$work/npm.log" 2>&1
cp "$here/webhooks.mjs" "$work/"

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking --keep index --pause-ms 20
smtp_port=$(free_port)
http_port=$(free_port)
listener_options=$'tls = "none"\nauth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
mkdir "$work/hooks"
answer() { echo "$*" >"$work/hooks/new" && mv "$work/hooks/new" "$work/hooks/answer"; }
answer 204
start_printing hooks hook_port "$python" "$here/webhooks.py" receive "$work/hooks"
secret() { echo "whsec_$(head -c 24 /dev/urandom | base64)"; }
first=$(secret) second=$(secret)
install -m 600 /dev/stdin "$work/hook.secret" <<<"$first"
head -c 32 /dev/urandom | base64 >"$work/token"
chmod 600 "$work/token"
base_config | with_api "$http_port" "$work/token" >"$work/relay.toml"
cat >>"$work/relay.toml" <<CONFIG
[[user]]
name = "trusted"
senders = ["*@app.test"]
[[webhook]]
url = "http://127.0.0.1:$hook_port/events"
secret_file = "$work/hook.secret"
events = ["accepted", "deferred", "greylisted", "delivered", "failed", "expired"]
[[webhook]]
url = "http://127.0.0.1:$hook_port/emails"
secret_file = "$work/hook.secret"
format = "emails"
[[webhook]]
url = "http://127.0.0.1:9/dead"
secret_file = "$work/hook.secret"
CONFIG
posts=$work/hooks/posts
hook() { "$relay" -c "$work/relay.toml" webhook "$@"; }
posted() { [ "$(grep -c "\"path\": \"$1\"" "$posts" 2>/dev/null || true)" -ge "$2" ]; }

start_relay
submit() { "$python" - "$smtp_port" "$1" <<'PY'
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as client:
    client.sendmail("otp@app.test", [f"{sys.argv[2]}@example.test"], f"From: otp@app.test\r\nSubject: code\r\n\r\n{sys.argv[2]} is your code.\r\n")
PY
}
for number in 1 2 3 4 5; do submit "alice$number"; done
wait_for 20 "posts of accepted and delivered" posted /events 10
wait_for 20 "the same as email.sent and email.delivered" posted /emails 10
verified=$("$python" "$here/webhooks.py" verify "$posts" /events "$first")
ok "$verified"
verified=$("$python" "$here/webhooks.py" verify "$posts" /emails "$first")
ok "format = \"emails\": $verified"
for path in /events /emails; do
  verified=$(cd "$work" && node webhooks.mjs "$posts" "$path" "$first")
  ok "$path: $verified"
done
! grep -q 'is your code' <(jq -r '.body | @base64d' "$posts") || fail "no content in posts" "a code"

# A secret is changed: for a while both sign.
printf '%s\n%s\n' "$second" "$first" >"$work/hook.secret"
kill -HUP "${pids[relay]}"
sleep 1
: >"$posts"
submit both
wait_for 20 "posts signed with both secrets" posted /events 2
for secret in "$first" "$second"; do
  verified=$("$python" "$here/webhooks.py" verify "$posts" /events "$secret")
  (cd "$work" && node webhooks.mjs "$posts" /events "$secret") >/dev/null
done
ok "while a secret is being changed each of both verifies: $verified"

# A redirect is not followed, and what failed comes again with the same id.
: >"$posts"
answer 302 "Location=http://127.0.0.1:$hook_port/elsewhere"
submit redirected
wait_for 20 "a try" posted /events 1
answer 204
wait_for 30 "the rest" posted /events 3
! posted /elsewhere 1 || fail "no post elsewhere" "one"
ids=$(jq -r 'select(.path == "/events").headers["webhook-id"]' "$posts" | sort | uniq -c | sort -rn | awk 'NR == 1 {print $1}')
[ "$ids" -ge 2 ] || fail "one id for all tries" "$ids"
ok "a redirect is a failure, is not followed, and the next try has the same id"

# The commands.
says "/dead  failing  .* waiting" hook list || fail "the dead one to fail" "$(hook list)"
says 204 hook test "http://127.0.0.1:$hook_port/events" || fail "a test to be taken" "something else"
! hook test "http://127.0.0.1:9/dead" >/dev/null 2>&1 || fail "a test of the dead one to fail" "exit status 0"
: >"$posts"
says '^[1-9]' hook replay --since 2026-01-01T00:00:00Z --endpoint "http://127.0.0.1:$hook_port/events" || fail "a replay" "nothing"
wait_for 20 "what is replayed" posted /events 14
ok "list, test and replay"
says 'otp_relay_webhook_waiting{endpoint="http://127.0.0.1:9/dead"} [1-9]' curl -sf "http://127.0.0.1:$http_port/metrics" ||
  fail "the backlog of the dead one in the metrics" "none"
ok "the backlog of each endpoint is in the metrics"

# 410 ends an endpoint until the next reload.
answer 410
submit gone
wait_for 20 "the end of the endpoint" grep -q '"a webhook answers 410' "$work/relay.log"
answer 204
: >"$posts"
submit unheard
sleep 2
! posted /events 1 || fail "nothing after 410" "a post"
kill -HUP "${pids[relay]}"
sleep 1
submit heard
wait_for 20 "posts after the reload" posted /events 2
ok "410 ends an endpoint until the next reload"

# Killed under load.
: >"$posts"
stop relay KILL || true
for round in $(seq "$rounds"); do kill_under_load "$round" 1300; done
start_relay
counts=$("$python" "$here/webhooks.py" order "$posts" /events "$acknowledged" 240) || fail "every end to be posted, in order" "$counts"
ok "$rounds rounds of SIGKILL under load: $counts"
stop relay || fail "exit status 0 of the relay" "$?"
