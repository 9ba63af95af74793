#!/usr/bin/env bash
# The relay makes codes and checks them, by curl and by `otp-relay verify`; then it is killed twenty times between a check and its
# answer. Over all lives of it, no code is right twice, and no more checks are answered than there are.
#   usage: verifications.sh path/to/otp-relay [KILLS]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need curl
kills=${2:-20}

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink mx
smtp_port=$(free_port) http_port=$(free_port)
"$relay" user hash --token >"$work/hash" 2>"$work/token"
grep -o '[^ ]*$' "$work/token" | tail -n 1 >"$work/api.token"
chmod 600 "$work/api.token"
{
  base_config | with_api "$http_port"
  printf '%s\n' '[[user]]' 'name = "shop"' 'senders = ["otp@app.test"]' "token_hash = \"$(tail -n 1 "$work/hash")\""
} >"$work/relay.toml"
chmod 600 "$work/relay.toml"
start_relay
wait_for 10 "the API to listen" answers "$http_port"
url=http://127.0.0.1:$http_port

# code: that of the latest mail.
code() { tr -d '\r' <"$work/mx/$(tail -n 1 "$work/mx/index" | jq -r .file)" | sed -n 's/^Subject: \([0-9]*\) .*/\1/p'; }
verify() { "$relay" verify --url "$url" --token-file "$work/api.token" "$@"; }

verify --json start --to alice@example.test --from otp@app.test --app "Example Shop" >"$work/begun"
id=$(jq -r .id "$work/begun")
expect_event 10 "delivered" '.event == "delivered"'
[ "$(jq -r .verification <<<"$seen")" = "$id" ] || fail "the verification in the event" "$seen"
right=$(code)
status=0
verify check "$id" --code 0000000 >"$work/checked" || status=$?
[ "$status" = 1 ] && grep -q '^not right: pending, 4 checks left$' "$work/checked" || fail "status 1 for a wrong code" "$status $(cat "$work/checked")"
printf '%s\n' "$right" >"$work/code"
verify check --to alice@example.test --code-file "$work/code" >"$work/checked" || fail "status 0 for the code" "$(cat "$work/checked")"
grep -q '^right: approved' "$work/checked" || fail "right" "$(cat "$work/checked")"
status=0
verify check vrf_0000000000000000 --code "$right" 2>/dev/null || status=$?
[ "$status" = 3 ] || fail "status 3 for an unknown verification" "$status"
ok "otp-relay verify: a wrong code, the right one, an unknown verification"

cat >"$work/checks.py" <<'PYTHON'
"""Checks one verification from several connections at once; prints each answer that came. With a process and a time it is killed so
many milliseconds after the first check was sent."""
import http.client, json, os, signal, sys, threading, time

port, token, ident, code, wrong = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
lock, sent = threading.Lock(), threading.Event()

def ask(typed):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", f"/v1/verifications/{ident}/check", json.dumps({"code": typed}),
                           {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        sent.set()
        answer = json.loads(connection.getresponse().read())
        with lock:
            print(json.dumps({"typed": typed == code, **answer}), flush=True)
    except (OSError, ValueError, http.client.HTTPException):
        pass

other = ("2" if code[0] == "1" else "1") + code[1:]
threads = [threading.Thread(target=ask, args=(other if n < wrong else code,)) for n in range(8)]
for thread in threads:
    thread.start()
if len(sys.argv) > 6:
    sent.wait()
    time.sleep(int(sys.argv[7]) / 1000)
    os.kill(int(sys.argv[6]), signal.SIGKILL)
for thread in threads:
    thread.join()
PYTHON

told=0 approved=0
for kill in $(seq "$kills"); do
  before=$(wc -l <"$work/mx/index")
  curl -s -H "Authorization: Bearer $(cat "$work/api.token")" "$url/v1/verifications" -d "{\"to\": \"k$kill@example.test\"}" >"$work/begun"
  id=$(jq -er .id "$work/begun") || fail "a verification" "$(cat "$work/begun")"

  wait_for 10 "the mail of kill $kill" sh -c "[ \$(wc -l <'$work/mx/index') -gt $before ]"
  right=$(code)
  : >"$work/answers"
  # From before the first commit to behind the last answer.
  "$python" "$work/checks.py" "$http_port" "$(cat "$work/api.token")" "$id" "$right" $((kill % 4)) "${pids[relay]}" $((kill * 7 % 20)) \
    >>"$work/answers"
  stop relay KILL || true
  before_kill=$((${before_kill:-0} + $(wc -l <"$work/answers")))
  start_relay
  wait_for 10 "the API to listen" answers "$http_port"
  "$python" "$work/checks.py" "$http_port" "$(cat "$work/api.token")" "$id" "$right" 0 >>"$work/answers"
  valid=$(jq -s '[.[] | select(.valid == true)] | length' "$work/answers")
  spent=$(jq -s '[.[] | select(.state == "pending" or .valid == true)] | length' "$work/answers")
  [ "$valid" -le 1 ] || fail "at most one answer that a code was right" "$valid: $(cat "$work/answers")"
  [ "$spent" -le 5 ] || fail "at most five checks" "$spent: $(cat "$work/answers")"
  jq -se 'all(.valid != true or .typed)' "$work/answers" >/dev/null || fail "only the code to be right" "$(cat "$work/answers")"
  state=$(curl -s -H "Authorization: Bearer $(cat "$work/api.token")" "$url/v1/verifications/$id" | jq -r .state)
  [ "$state" = approved ] || [ "$state" = exhausted ] || fail "a final state" "$state"
  told=$((told + $(wc -l <"$work/answers"))) approved=$((approved + valid))
done
ok "$kills kills between checks and their answers: $told answers, $before_kill of them before the kill; $approved times right, never twice"
grep -l "$right" "$work"/relay.log "$work"/data/queue/db 2>/dev/null && fail "no code in the log and the database" "the last one"
ok "no code in the log and the database"
stop relay || fail "exit status 0 of the relay" "$?"
