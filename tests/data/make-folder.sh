#!/usr/bin/env bash
# Makes tests/data/X.Y: what the release program of version X.Y leaves in its data directory when it is stopped, and beside it made.json,
# what the tests have to know of it. tests/data/0.2/README.md says what the relay is given. Until X.Y is released its folder is made anew
# whenever something is stored in another form; from then on it stays as it is.
#   usage: make-folder.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/../interop/lib.sh"
data=$(cd "$(dirname "$0")" && pwd)
made=$data/$("$relay" --version | sed 's/^otp-relay \([0-9]*\.[0-9]*\).*/\1/')

smtp_port=$(free_port) http_port=$(free_port)
start_dns "example.test MX 10 mx.example.test" "victim.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_printing host mx_port "$python" "$data/mail_host.py" "$work/codes"
mkdir "$work/keys"
"$relay" dkim generate app.test otp1 --out "$work/keys" >"$work/zone" 2>&1
echo "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" >"$work/hook.secret"
chmod 600 "$work/hook.secret"
cat >"$work/relay.toml" <<TOML
hostname = "relay.test"
data_dir = "data"
[[listener]]
address = "127.0.0.1:$smtp_port"
auth = "trusted"
trusted_networks = ["127.0.0.0/8"]
[[user]]
name = "trusted"
senders = ["*@app.test"]
[[user]]
name = "shop"
token_hash = "$(printf %s "token of shop" | sha256sum | cut -d ' ' -f 1)"
senders = ["*@app.test"]
[[dkim]]
domain = "app.test"
selector = "otp1"
private_key = "keys/app.test.otp1.pem"
# Nobody listens there: what is told of waits.
[[webhook]]
url = "http://127.0.0.1:9/events"
secret_file = "hook.secret"
events = ["delivered", "failed", "expired", "superseded"]
[http]
address = "127.0.0.1:$http_port"
[resolver]
nameservers = ["127.0.0.1:$dns_port"]
dnssec = false
[delivery]
port = $mx_port
allow_private_destinations = true
[otp]
recipient_budget = "3/1d"
[log]
format = "json"
recipients = "full"
TOML
chmod 600 "$work/relay.toml"
start_relay
wait_for 20 "the API" "$relay" healthz --url "http://127.0.0.1:$http_port" >/dev/null
otp() { "$relay" "$@" -c "$work/relay.toml"; }

cat >"$work/give.py" <<'PYTHON'
import email.utils
import json
import sys
import urllib.request

import smtp_client

smtp_port, http_port = int(sys.argv[1]), int(sys.argv[2])


def give(recipient, **options):
    """Returns the message's id, or the refusal."""
    fields = "".join(f"X-OTP-{name.replace('_', '-')}: {value}\r\n" for name, value in options.items())
    content = (
        f"Date: {email.utils.formatdate()}\r\nFrom: otp@app.test\r\nTo: {recipient}\r\nSubject: code\r\n{fields}\r\n"
        f"481516 is your code, {recipient}.\r\n"
    )
    with smtp_client.Client(smtp_port) as client:
        client.greet()
        client.envelope("otp@app.test", [recipient])
        return client.data(content.encode()).split("id=")[1].split()[0]


for number in range(4):
    give(f"later{number}@example.test", Life=86400)
for number in range(3):
    give(f"grey{number}@example.test", Life=86400, Tag="signup")
give("later-key@example.test", Life=86400, Key="login:42")
give("later-key@example.test", Life=86400, Key="login:42")
give("later-idem@example.test", Life=86400, Idempotency_Key="7f3a")
give("later-reset@example.test", Life=86400, Lane="reset")
done = give("done@example.test", Idempotency_Key="7f3b")
give("short@example.test", Life=60)
give("late@example.test", Life=5)
for _ in range(3):
    give("budget@example.test")
try:
    give("budget@example.test")
    sys.exit("the budget did not refuse the fourth")
except smtp_client.Refused as refused:
    assert refused.code == 450, refused
give("nobody@example.test")
give("denied@victim.test")
request = urllib.request.Request(
    f"http://127.0.0.1:{http_port}/v1/verifications",
    json.dumps({"to": "code@example.test", "from": "otp@app.test", "app": "Shop", "life": "30m"}).encode(),
    {"Authorization": "Bearer token of shop"},
)
with urllib.request.urlopen(request, timeout=30) as answer:
    verification = json.load(answer)["id"]
print(json.dumps({"done": done, "verification": verification}))
PYTHON
"$python" "$work/give.py" "$smtp_port" "$http_port" >"$work/given" 2>"$work/give.log"
otp suppression add blocked@example.test >>"$work/commands.log"
otp suppression add @blocked.test >>"$work/commands.log"
otp dkim rotate app.test >>"$work/commands.log"
expect_event 20 "the end of what lives 5 s" '.event == "expired" and .recipient == "late@example.test"'
wait_for 20 "the code of the verification" test -s "$work/codes"
# Traces and statistics are written a little later.
sleep 3
stop relay || fail "exit status 0" "$?"
rm -rf "$made/data"
mkdir -p "$made"
cp -r "$work/data" "$made/data"
rm -f "$made/data/lock"
jq --arg code "$(cat "$work/codes")" --argjson at "$(($(date +%s) * 1000))" '. + {code: $code, stopped_at: $at}' "$work/given" >"$made/made.json"
"$relay" data verify "$made/data"
ok "$(du -sh --apparent-size "$made/data" | cut -f 1), made by $("$relay" --version)"
