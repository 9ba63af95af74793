#!/usr/bin/env bash
# `otp-relay demo` as the sandbox of test suites: twenty tests side by side in Python and in JavaScript, many times over, without
# one that fails by chance; a suite written against Mailpit's API; and the page in a browser.
#   usage: sandbox.sh path/to/otp-relay [RUNS]
# MAILPIT=path/to/mailpit runs the suite for Mailpit against that one too. SHOTS=folder keeps pictures of the page.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
runs=${2:-${RUNS:-20}}
command -v npm >/dev/null || need nodejs npm

smtp=127.0.0.1:$(free_port) http=127.0.0.1:$(free_port)
mkdir "$work/tmp" "$work/node"
cp "$here"/sandbox/*.mjs "$work/node/"
echo '{"type": "module"}' >"$work/node/package.json"
(cd "$work/node" && npm install --silent --no-fund --no-audit nodemailer@9 mailpit-api@2 playwright-core@1 >>"$work/npm.log" 2>&1) \
  || fail "npm to install nodemailer, mailpit-api and playwright-core" "$(tail -n 3 "$work/npm.log")"

# ready_ms: how long the sandbox takes to say that it is there.
began=$(date +%s%N)
TMPDIR="$work/tmp" start demo "$relay" demo --no-sample --smtp "$smtp" --http "$http" --clock-rate 10
until grep -qs '^ready ' "$work/demo.log"; do ended "${pids[demo]}" && fail "a sandbox" "$(cat "$work/demo.log")"; sleep 0.01; done
ready_ms=$((($(date +%s%N) - began) / 1000000))
[ "$ready_ms" -lt 500 ] || echo "note: ready after $ready_ms ms"
grep -qx "ready smtp=$smtp http=$http user=[^ ]* password=[^ ]* token=[^ ]*" "$work/demo.log" || fail "one ready line" "$(cat "$work/demo.log")"
ok "ready after $ready_ms ms: $(cat "$work/demo.log")"

said=$("$python" "$here/sandbox/suite.py" "$smtp" "$http" "$runs") || fail "no failure in Python" "$said"
ok "Python, $runs runs of 20 tests side by side: $said"
said=$(node "$work/node/suite.mjs" "$smtp" "$http" "$runs") || fail "no failure in JavaScript" "$said"
ok "JavaScript, $runs runs of 20 tests side by side: $said"

said=$(node "$work/node/mailpit.mjs" "$smtp" "$http" 2>&1) || fail "a suite for Mailpit to pass" "$said"
ok "a suite written for Mailpit, with the client mailpit-api: $(grep -c '^ok' <<<"$said") parts"
if [ -n "${MAILPIT:-}" ]; then
  their_smtp=127.0.0.1:$(free_port) their_http=127.0.0.1:$(free_port)
  start mailpit "$MAILPIT" --smtp "$their_smtp" --listen "$their_http" --disable-version-check
  wait_for 10 "Mailpit to listen" answers "${their_http#*:}"
  said=$(node "$work/node/mailpit.mjs" "$their_smtp" "$their_http" 2>&1) || fail "the same suite to pass at Mailpit" "$said"
  ok "the same suite against Mailpit itself"
else
  echo "SKIPPED: Mailpit itself (MAILPIT=path/to/mailpit names one)"
fi

need chromium curl
said=$(node "$work/node/page.mjs" "$http" "${SHOTS:-$work}" 2>&1) || fail "a page without faults" "$said"
ok "the page in Chromium, 360 and 1280 px wide, light and dark: $said"

# Every way out, as the kernel sees it: another sandbox, traced, while tests run at it.
need strace
smtp=127.0.0.1:$(free_port) http=127.0.0.1:$(free_port)
TMPDIR="$work/tmp" start traced strace -f -qq -e trace=connect,sendto,sendmsg,sendmmsg -o "$work/calls" \
  "$relay" demo --no-sample --smtp "$smtp" --http "$http" --clock-rate 10
traced_is_ready() { grep -qs '^ready ' "$work/traced.log"; }
wait_for 60 "a sandbox that is traced" traced_is_ready
said=$("$python" "$here/sandbox/suite.py" "$smtp" "$http" 1) || fail "no failure while it is traced" "$said"
for to in 'x@[127.0.0.1]' 'x@[192.0.2.1]' x@gmail.com; do
  curl -s -o /dev/null -H 'Authorization: Bearer any' "http://$http/v1/messages" \
    -d "{\"from\": \"otp@shop.example\", \"to\": \"$to\", \"otp\": {\"code\": \"481516\"}}"
done
curl -s -o /dev/null -H 'Authorization: Bearer any' "http://$http/v1/webhooks/test" -d '{"endpoint": "http://192.0.2.1/"}'
kill "$(pgrep -P "${pids[traced]}")"
wait "${pids[traced]}" || true
unset 'pids[traced]'
[ -s "$work/calls" ] || fail "calls to be seen" "none"
outside=$(grep -oE 'sin6?_addr[^)]*\)|inet_pton[^)]*\)' "$work/calls" | grep -vE '"(127\.[0-9.]*|::1)"' || true)
[ -z "$outside" ] || fail "no address but this machine's" "$(head -n 5 <<<"$outside")"
ok "no call names an address outside the machine: $(grep -cE 'connect|send' "$work/calls") calls seen"

[ "$(wc -l <"$work/demo.log")" = 1 ] || fail "nothing but the ready line" "$(head -n 5 "$work/demo.log")"
stop demo || fail "status 0 at the end" "status $?"
[ -z "$(ls -A "$work/tmp")" ] || fail "nothing to be left" "$(ls -A "$work/tmp")"
ok "it ends with SIGTERM and leaves nothing behind"
