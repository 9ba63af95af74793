# Matrix Synapse: a reset of a password, asked for by its client API. Needs RELAY_*, SENDER, RECIPIENT, and SYNAPSE: its venv.
set -euo pipefail
folder=$(mktemp -d)
port=$("$SYNAPSE/bin/python3" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pid=
trap '[ -z "$pid" ] || kill -9 "$pid"; rm -rf "$folder"' EXIT
cat >"$folder/homeserver.yaml" <<CONFIG
server_name: app.test
public_baseurl: "http://127.0.0.1:$port/"
pid_file: $folder/pid
listeners: [{port: $port, type: http, bind_addresses: ["127.0.0.1"], resources: [{names: [client], compress: false}]}]
database: {name: sqlite3, args: {database: "$folder/homeserver.db"}}
media_store_path: $folder/media
signing_key_path: $folder/signing.key
registration_shared_secret: secret
macaroon_secret_key: secret
form_secret: secret
report_stats: false
trusted_key_servers: []
email:
  smtp_host: "$RELAY_HOST"
  smtp_port: $RELAY_PORT
  smtp_user: "$RELAY_USER"
  smtp_pass: "$RELAY_PASSWORD"
  require_transport_security: true
  notif_from: "Shop <$SENDER>"
CONFIG
"$SYNAPSE/bin/python3" -m synapse.app.homeserver -c "$folder/homeserver.yaml" --generate-keys
"$SYNAPSE/bin/python3" -m synapse.app.homeserver -c "$folder/homeserver.yaml" &
pid=$!
for _ in $(seq 300); do curl -fs "http://127.0.0.1:$port/health" >/dev/null && break || sleep 0.1; done
"$SYNAPSE/bin/register_new_matrix_user" -u alice -p "a password" --admin -k secret "http://127.0.0.1:$port"
client=http://127.0.0.1:$port/_matrix/client/v3
ask() { curl -sS -H 'Content-Type: application/json' "$@"; }
token=$(ask "$client/login" -d '{"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "a password"}' |
  jq -re .access_token)
ask -X PUT "http://127.0.0.1:$port/_synapse/admin/v2/users/@alice:app.test" -H "Authorization: Bearer $token" \
  -d "{\"threepids\": [{\"medium\": \"email\", \"address\": \"$RECIPIENT\"}]}" | jq -e .threepids[0] >/dev/null
ask "$client/account/password/email/requestToken" -d "{\"client_secret\": \"c$RANDOM\", \"email\": \"$RECIPIENT\", \"send_attempt\": 1}" |
  tee /dev/stderr | jq -e .sid >/dev/null
