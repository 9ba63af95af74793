#!/usr/bin/env bash
# Debian's Prometheus with config/alerts.yml, and Alertmanager behind it: the faults of a relay are made, and each alert
# arrives at a webhook. Every query of config/grafana.json returns data. Three alerts come from a relay that is only played
# (alerts_past.py): one takes a week, two are about what this version does not measure. Takes some twenty minutes.
#   usage: alerts.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need prometheus prometheus-alertmanager openssl curl e2fsprogs
cleanup() {
  [ -z "${pids[relay]:-}" ] || stop relay KILL 2>/dev/null || true
  umount "$work/disk" 2>/dev/null || umount -l "$work/disk" 2>/dev/null || true
}
mkdir "$work/disk"
truncate -s 128M "$work/disk.img"
mkfs.ext4 -q -m 0 "$work/disk.img"
mount -o loop "$work/disk.img" "$work/disk"
config=$here/../../config
cp "$config/alerts.yml" "$here/alerts_test.yml" "$work/"
promtool check rules "$work/alerts.yml" >"$work/promtool.log" || fail "good rules" "$(cat "$work/promtool.log")"
promtool test rules "$work/alerts_test.yml" >>"$work/promtool.log" || fail "rules that fire" "$(tail -n 30 "$work/promtool.log")"
ok "promtool: each alert fires by its fault, and none without"

smtp_port=$(free_port) http_port=$(free_port) prom_port=$(free_port) am_port=$(free_port) hook_port=$(free_port) played_port=$(free_port)
make_keys app.test
# The keys are not published, which is a fault.
start_dns "example.net MX 10 mx.example.net" "mx.example.net A 127.0.0.1" "smart.test MX 10 mx.example.net"
start_printing host mx_port "$python" "$here/alerts_host.py"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj /CN=relay.app.test \
  -addext subjectAltName=DNS:relay.app.test -keyout "$work/c.key" -out "$work/c.pem" 2>/dev/null
chmod 600 "$work/c.key"
{
  base_config | with_api "$http_port" | sed "s|^data_dir = .*|data_dir = \"$work/disk/data\"|"
  printf '[queue]\nentries_max = 20\n[tls]\ncertificate = "c.pem"\nprivate_key = "c.key"\n'
  printf '[[webhook]]\nurl = "http://127.0.0.1:1/dead"\nsecret_file = "w.secret"\n'
  printf '[[user]]\nname = "shop"\nsenders = ["*@app.test"]\n[[smart_host]]\naddress = "127.0.0.1:1"\ntls = "none"\nwhen = "always"\ndomains = ["smart.test"]\n%s\n' "$dkim_config"
} >"$work/relay.toml"
echo "whsec_$(head -c 32 /dev/urandom | base64)" >"$work/w.secret"
chmod 600 "$work/relay.toml" "$work/w.secret"
start_relay
wait_for 10 "the token" test -s "$work/disk/data/api.token"
token=$(cat "$work/disk/data/api.token")
send() { curl -sS -o /dev/null -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "http://127.0.0.1:$http_port/v1/messages" -d "{\"from\":\"otp@app.test\",\"to\":\"$1\",\"otp\":{\"code\":\"481516\"}${2:-}}"; }

cat >"$work/prometheus.yml" <<CONFIG
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ["127.0.0.1:$am_port"]}]}]}
scrape_configs:
  - job_name: otp-relay
    static_configs: [{targets: ["127.0.0.1:$http_port"]}]
  - job_name: played
    static_configs: [{targets: ["127.0.0.1:$played_port"], labels: {instance: played}}]
CONFIG
cat >"$work/alertmanager.yml" <<CONFIG
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 1s}
receivers: [{name: hook, webhook_configs: [{url: "http://127.0.0.1:$hook_port/"}]}]
CONFIG
cat >"$work/hook.py" <<'PY'
import http.server, json, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            print(alert["status"], alert["labels"]["alertname"], alert["annotations"]["summary"], flush=True)
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
PY
start hook "$python" "$work/hook.py" "$hook_port"
start alertmanager prometheus-alertmanager --config.file="$work/alertmanager.yml" --storage.path="$work/am" \
  --web.listen-address="127.0.0.1:$am_port" --cluster.listen-address=
now=$(date +%s)
"$python" "$here/alerts_past.py" past "$now" >"$work/past.txt"
promtool tsdb create-blocks-from openmetrics "$work/past.txt" "$work/tsdb" >>"$work/promtool.log" 2>&1 || fail "a past" "$(tail -n 5 "$work/promtool.log")"
start played "$python" "$here/alerts_past.py" serve "$played_port" "$now"
start prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$prom_port"
query() { curl -sS "http://127.0.0.1:$prom_port/api/v1/query" --data-urlencode "query=$1" | jq -r '.data.result | length'; }
scraped() { [ "$(query 'up{job="otp-relay"} == 1')" = 1 ]; }
wait_for 30 "Prometheus to scrape the relay" scraped
curl -sS -H 'Accept: application/openmetrics-text' "http://127.0.0.1:$http_port/metrics" | promtool check metrics >/dev/null 2>"$work/lint.log" || true
curl -sS "http://127.0.0.1:$http_port/metrics" | promtool check metrics >"$work/lint.log" 2>&1 || fail "metrics that promtool likes" "$(cat "$work/lint.log")"
ok "promtool likes the metrics"

arrived() { grep -q "^firing $1 " "$work/hook.log"; }
alert() { wait_for "$1" "the alert $2" arrived "$2"; ok "$2: $(grep -m 1 "^firing $2 " "$work/hook.log" | cut -d ' ' -f 3-)"; }
for n in 1 2 3; do send "user$n@example.net"; sleep 1; done
for n in 1 2 3 4 5 6 7 8; do send "blocked$n@example.net"; sleep 0.5; done
for n in $(seq 1 17); do send "never$n@example.net"; done
send a@smart.test
# What else the dashboard shows.
send gone1@example.net
curl -sS -o /dev/null -H "Authorization: Bearer wrong" "http://127.0.0.1:$http_port/v1/queue"
used=$(curl -sS -H "Authorization: Bearer $token" "http://127.0.0.1:$http_port/v1/messages?recipient=user1@example.net" | jq -r '.messages[0].id')
curl -sS -o /dev/null -X POST -H "Authorization: Bearer $token" "http://127.0.0.1:$http_port/v1/messages/$used/verified"
alert 30 CertificateExpires
alert 30 DkimRecordGone
alert 60 ProviderRefusesUs
alert 60 InTimeRatioLow
alert 120 CodesAtRisk
alert 120 QueueNearLimit
alert 120 SmartHostOpen

# Nothing is delivered while mail is accepted.
cancel() { curl -sS -o /dev/null -X DELETE -H "Authorization: Bearer $token" "http://127.0.0.1:$http_port/v1/messages?recipient=$1"; }
for n in $(seq 1 17); do cancel "never$n@example.net"; done
(for n in $(seq 1 130); do send "never-again$n@example.net"; sleep 2; cancel "never-again$n@example.net"; done) &
pids[sender]=$!
alert 300 NothingDelivered
kill "${pids[sender]}" 2>/dev/null || true

# Every query of the dashboard has data, while the relay runs.
missing=()
while read -r expr; do [ "$(query "$expr")" != 0 ] || missing+=("$expr"); done < <(jq -r '.panels[].targets[].expr' "$config/grafana.json")
[ ${#missing[@]} = 0 ] || fail "data for every query of the dashboard" "none for: $(printf '%s; ' "${missing[@]}")"
ok "every query of the dashboard returns data: $(jq '[.panels[].targets[]] | length' "$config/grafana.json")"

# The webhook has been dead from the begin.
alert 700 WebhookBacklog
# What only a week, or another version, can show.
alert 60 ProviderHeld
alert 60 ComplaintRate
alert 1200 VerifiedFell
# The disk is full.
dd if=/dev/zero of="$work/disk/filler" bs=64k status=none 2>/dev/null || true
(for n in $(seq 1 60); do send "full$n@example.net"; sleep 1; done) &
pids[filler]=$!
alert 90 CannotStore
kill "${pids[filler]}" 2>/dev/null || true
# DNS falls silent.
stop dns KILL || true
for n in $(seq 1 12); do send "x@dns$n.test" & done
wait $(jobs -p | grep -v -F -f <(printf '%s\n' "${pids[@]}")) 2>/dev/null || true
alert 60 DnsBroken
stop relay KILL || true
alert 120 RelayDown
missing=$(comm -13 <(grep -o '^firing [A-Za-z]*' "$work/hook.log" | cut -d ' ' -f 2 | sort -u) <(sed -n 's/^ *- alert: //p' "$config/alerts.yml" | sort -u))
[ -z "$missing" ] || fail "every alert to arrive" "not: $missing"
ok "every alert of config/alerts.yml has arrived: $(sed -n 's/^ *- alert: //p' "$config/alerts.yml" | sort -u | wc -l)"
