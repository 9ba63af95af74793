#!/usr/bin/env bash
# The libraries of mail APIs, unmodified, against the relay's compatible doors: each sends, is refused as its API would
# refuse, and repeats without a second mail.
#   usage: sdks.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need curl
command -v npm >/dev/null || need nodejs npm
mkdir -p "$work/node"
npm install --silent --no-fund --no-audit --prefix "$work/node" resend postmark @sendgrid/mail >"$work/npm.log" 2>&1
cp "$here/sdks.mjs" "$work/node/"
venv resend postmarker sendgrid 'django-anymail[resend,postmark,sendgrid]'

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink
smtp_port=$(free_port) http_port=$(free_port)
hash=$("$relay" user hash --token 2>"$work/token")
token=$(sed 's/^token: //' "$work/token")
{
  base_config | with_api "$http_port"
  printf '%s\n' '[[user]]' 'name = "shop"' "token_hash = \"$hash\"" 'senders = ["*@app.test"]'
} >"$work/relay.toml"
start_relay
ready() { curl -sf "http://127.0.0.1:$http_port/readyz" >/dev/null; }
wait_for 20 "the API to be ready" ready
operator() { "$relay" suppression "$@" -c "$work/relay.toml"; }
operator add gone@example.test --reason test >"$work/suppression.log"

# run NAME COMMAND...: it prints one `ok NAME: what` a line.
run() {
  local line
  "${@:2}" >"$work/$1.out" 2>"$work/$1.log" || fail "$1 to pass" "$(tail -n 5 "$work/$1.out" "$work/$1.log")"
  while read -r line; do ok "${line#ok }"; done < <(grep '^ok ' "$work/$1.out")
}
# arrived SUBJECT TIMES: so many mails with it came for Alice.
arrived() {
  wait_for 10 "$2 mails with the subject \"$1\"" has_arrived "$1" "$2"
  ok "$1: $2 at the mail host"
}
has_arrived() {
  local file count=0
  while read -r file; do
    grep -q "^Subject: $1"$'\r$' "$work/sink/$file" && count=$((count + 1))
  done < <(jq -r 'select(.to | index("alice@example.test")).file' "$work/sink/index")
  [ "$count" = "$2" ]
}

export SDK_URL=http://127.0.0.1:$http_port SDK_TOKEN=$token
run node node "$work/node/sdks.mjs"
run python "$python" "$here/sdks.py"
for library in "resend of npm" "postmark of npm" "@sendgrid/mail" "resend of PyPI" postmarker "sendgrid of PyPI" \
  "anymail, resend" "anymail, postmark" "anymail, sendgrid"; do
  arrived "$library, once" 1
  arrived "$library, repeated" 1
done
