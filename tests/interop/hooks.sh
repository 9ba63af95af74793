#!/usr/bin/env bash
# Calls of identity servers' hooks, signed by libraries that others wrote: npm's standardwebhooks and svix, PyPI's standardwebhooks; and
# by ZITADEL's form with Node's crypto. What is signed is taken once, repeats with other ids are the same message, and what is changed
# or old is refused.
#   usage: hooks.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need curl
command -v npm >/dev/null || need nodejs npm
venv standardwebhooks
npm install --silent --no-fund --no-audit --prefix "$work/node" standardwebhooks svix >"$work/npm.log" 2>&1

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink mx
smtp_port=$(free_port) http_port=$(free_port)
"$relay" user hash --token >"$work/hash" 2>/dev/null
whsec=$(head -c 32 /dev/urandom | base64)
printf 'v1,whsec_%s\n' "$(head -c 32 /dev/urandom | base64)" "$whsec" >"$work/supabase.secret"
printf 'zitadel-signing-key\n' >"$work/zitadel.secret"
printf 'Bearer logto-value\n' >"$work/logto.secret"
{
  base_config | with_api "$http_port"
  printf '%s\n' '[[user]]' 'name = "shop"' 'senders = ["otp@app.test"]' "token_hash = \"$(tail -n 1 "$work/hash")\""
  for kind in supabase logto zitadel; do
    printf '%s\n' '[[hook]]' "name = \"$kind\"" "kind = \"$kind\"" 'user = "shop"' 'from = "otp@app.test"' 'app = "Example Shop"' \
      "secret_file = \"$work/$kind.secret\""
  done
} >"$work/relay.toml"
chmod 600 "$work/relay.toml" "$work"/*.secret
start_relay
wait_for 10 "the API to listen" answers "$http_port"

cat >"$work/call.mjs" <<'JS'
import { createRequire } from "node:module";
import { createHmac } from "node:crypto";
const require = createRequire(process.argv[2] + "/node_modules/");
const [, , , port, secret] = process.argv;
const call = async (path, headers, body) => {
  const answer = await fetch(`http://127.0.0.1:${port}/v1/hooks/${path}`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
  return [answer.status, await answer.text()];
};
const same = (what, seen, expected) => {
  if (JSON.stringify(seen) !== JSON.stringify(expected)) { console.error(`${what}: expected ${JSON.stringify(expected)}, seen ${JSON.stringify(seen)}`); process.exit(1); }
};
const body = (to, code) => JSON.stringify({ metadata: { uuid: "u", name: "send-email" }, user: { id: "1", email: to, user_metadata: { lang: "de" } },
  email_data: { token: code, token_hash: "h" + code, redirect_to: "http://localhost:3000", email_action_type: "magiclink", site_url: "https://auth.app.test", token_new: "", token_hash_new: "" } });
const { Webhook } = require("standardwebhooks");
const { Webhook: Svix } = require("svix");
for (const [name, Signer, to] of [["standardwebhooks", Webhook, "npm@example.test"], ["svix", Svix, "svix@example.test"]]) {
  const signer = new Signer("whsec_" + secret);
  for (const id of ["msg_1", "msg_2"]) {
    const payload = body(to, "481516"), now = new Date();
    const signature = signer.sign(id, now, payload);
    const headers = { "webhook-id": id, "webhook-timestamp": String(Math.floor(now / 1000)), "webhook-signature": signature };
    same(name, await call("supabase", headers, payload), [200, "{}"]);
    // As its server joins several: with a comma and a blank.
    const joined = { ...headers, "webhook-signature": `v1,${Buffer.alloc(32).toString("base64")}, ${signature}` };
    same(`${name}, joined`, await call("supabase", joined, payload), [200, "{}"]);
    same(`${name}, changed`, (await call("supabase", headers, payload.replace("481516", "481517")))[0], 401);
    const old = new Date(now - 301_000);
    const late = { ...headers, "webhook-timestamp": String(Math.floor(old / 1000)), "webhook-signature": signer.sign(id, old, payload) };
    same(`${name}, old`, (await call("supabase", late, payload))[0], 401);
  }
}
const payload = JSON.stringify({ contextInfo: { eventType: "session.otp.email.challenged", recipientEmailAddress: "zitadel@example.test" },
  templateData: { subject: "Code", text: "Your code", url: "https://auth.app.test/otp" }, args: { otp: "481516" } });
const t = Math.floor(Date.now() / 1000);
const mac = (at) => createHmac("sha256", "zitadel-signing-key").update(`${at}.`).update(payload).digest("hex");
same("zitadel", await call("zitadel", { "zitadel-signature": `t=${t},v1=${mac(t)}` }, payload), [204, ""]);
same("zitadel, old", (await call("zitadel", { "zitadel-signature": `t=${t - 301},v1=${mac(t - 301)}` }, payload))[0], 401);
const logto = JSON.stringify({ to: "logto@example.test", type: "SignIn", payload: { code: "481516", locale: "fr" }, ip: "192.0.2.7" });
same("logto", await call("logto", { authorization: "Bearer logto-value" }, logto), [204, ""]);
same("logto, wrong", (await call("logto", { authorization: "Bearer logto-valuf" }, logto))[0], 401);
JS
node "$work/call.mjs" "$work/node" "$http_port" "$whsec" || fail "answers as they should be" "others"
ok "npm's standardwebhooks and svix, ZITADEL's form, Logto's value: taken; changed, old and wrong ones: 401"

cat >"$work/call.py" <<'PYTHON'
import datetime, json, sys, urllib.request
from standardwebhooks.webhooks import Webhook
port, secret = sys.argv[1:3]
payload = json.dumps({"user": {"email": "pypi@example.test"}, "email_data": {"token": "481516", "email_action_type": "recovery"}})
now = datetime.datetime.now(tz=datetime.timezone.utc)
signature = Webhook("whsec_" + secret).sign("msg_9", now, payload)
request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/hooks/supabase", payload.encode(), {
    "webhook-id": "msg_9", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature})
answer = urllib.request.urlopen(request)
assert (answer.status, answer.read()) == (200, b"{}"), answer.status
PYTHON
"$python" "$work/call.py" "$http_port" "$whsec" || fail "PyPI's standardwebhooks to be believed" "not"
ok "PyPI's standardwebhooks"

for to in npm svix zitadel logto pypi; do expect_event 10 "delivered to $to" ".event == \"delivered\" and .recipient == \"$to@example.test\""; done
[ "$(wc -l <"$work/mx/index")" = 5 ] || fail "five mails, one for each, repeats or not" "$(wc -l <"$work/mx/index")"
ok "five mails, however often they were asked for"
stop relay || fail "exit status 0 of the relay" "$?"
