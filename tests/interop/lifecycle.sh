#!/usr/bin/env bash
# Start, stop, reload, and what the relay leaves in its log and on disk.
#   usage: lifecycle.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need openssl swaks libnet-ssleay-perl
make_keys app.test
start_dns "$dkim_table" "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking
smtp_port=$(free_port)
config=$work/relay.toml

certificate() { # COMMON-NAME
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" \
    -keyout "$work/tls.key" -out "$work/tls.pem" 2>>"$work/openssl.log"
}
user() { # NAME PASSWORD
  printf '%s\n' '[[user]]' "name = \"$1\"" "password_hash = \"$(password_hash "$2")\"" 'senders = ["*@app.test"]'
}
certificate first.app.test
{
  base_config
  printf '%s\n' 'level = "trace"' "$dkim_config" '[tls]' "certificate = \"$work/tls.pem\"" "private_key = \"$work/tls.key\""
} >"$work/common.toml"
{ cat "$work/common.toml"; user shop secret; } >"$config"

# refuses WHAT PATTERN CONFIG [STATUS]: a start fails with this exit status (1) and says something like the pattern; it is in `$seen`.
refuses() {
  local status=0
  seen=$(timeout 20 "$relay" serve -c "$3" 2>&1) || status=$?
  [ "$status" = "${4:-1}" ] || fail "exit status ${4:-1} for $1" "$status: $seen"
  grep -qE -- "$2" <<<"$seen" || fail "$2 for $1" "$seen"
}

# --- Start
start notify "$python" "$here/notify_socket.py" "$work/notify"
wait_for 10 "the notify socket" grep -qs listening "$work/notify.log"
NOTIFY_SOCKET=$work/notify start_relay
wait_for 5 "READY=1" grep -q READY=1 "$work/notify.log"
ok "sd_notify: READY=1 when clients can connect"

refuses "a second process" "another otp-relay uses the data directory" "$config"
ok "second process on the same data directory: exit 1, $(tail -n 1 <<<"$seen")"

sed "s|^data_dir = .*|data_dir = \"$work/other-data\"|" "$config" >"$work/same-port.toml"
refuses "a port in use" "127.0.0.1:$smtp_port: .*in use" "$work/same-port.toml"
ok "port in use: exit 1, $(tail -n 1 <<<"$seen")"
answers "$smtp_port" || fail "the first relay to go on" "no answer"

cat >"$work/bad.toml" <<'CONFIG'
hostnam = "relay.app.test"
[[listener]]
address = "nowhere"
[submission]
idle_timeout = "5 parsecs"
[[dkim]]
domain = "app.test"
selector = "otp1"
private_key = "there-is-none.pem"
[queue]
entries_max = "many"
CONFIG
refuses "a bad configuration" "nothing was started" "$work/bad.toml" 78
for line in 1 3 5 9 11; do
  grep -q "^error: $work/bad.toml:$line: " <<<"$seen" || fail "an error for line $line" "$seen"
done
grep -q 'hostnam: .*`hostname`' <<<"$seen" || fail "the nearest key to be named" "$seen"
ok "bad configuration: exit 78, all 5 mistakes with their lines"
printf '[submission\n' >"$work/bad.toml"
refuses "broken TOML" "^error: $work/bad.toml:1: " "$work/bad.toml" 78
ok "broken TOML: exit 78, $(head -n 1 <<<"$seen" | sed "s|$work/||")"

# --- SIGHUP
logs_in() { # NAME PASSWORD
  swaks --server "127.0.0.1:$smtp_port" --tls --auth PLAIN --auth-user "$1" --auth-password "$2" --quit-after AUTH >>"$work/swaks.log" 2>&1
}
expect_login() { logs_in "$1" "$2" || fail "$1 to log in $3" "$(grep -a '^<~\*' "$work/swaks.log" | tail -n 1)"; }
expect_refusal() {
  local status=0
  logs_in "$1" "$2" || status=$?
  [ "$status" = 28 ] || fail "$1 to be refused $3 (28 from swaks)" "$status"
}
shown_certificate() {
  openssl s_client -connect "127.0.0.1:$smtp_port" -starttls smtp </dev/null 2>/dev/null | openssl x509 -noout -subject
}
says() { grep -q "\"message\":\"$1" "$work/relay.log"; }
reload() { # WHAT IT SAYS
  : >"$work/relay.log"
  kill -HUP "${pids[relay]}"
  wait_for 10 "the log to say: $1" says "$1"
}

expect_login shop secret "at first"
[[ $(shown_certificate) == *first.app.test ]] || fail "the first certificate" "$(shown_certificate)"
{ cat "$work/common.toml"; user shop changed; user added also; } >"$config"
certificate second.app.test
reload "reloaded: "
expect_login shop changed "with the changed password"
expect_refusal shop secret "with the old password"
expect_login added also "as the added user"
ok "SIGHUP: a changed password and an added user hold for new sessions, the old password is refused"
[[ $(shown_certificate) == *second.app.test ]] || fail "the second certificate" "$(shown_certificate)"
ok "SIGHUP: new sessions see the new certificate"

cp "$config" "$work/good.toml"
{ sed 's/^name = "added"/nam = "added"/' "$work/good.toml"; user third third; } >"$config"
reload "not reloaded: the configuration has errors"
grep -q "error: $config:[0-9]*: " "$work/relay.log" || fail "the log to name file and line" "$(tail -n 2 "$work/relay.log")"
cp "$work/good.toml" "$config"
echo "no certificate" >"$work/tls.pem"
reload "not reloaded: "
expect_login added also "after reloads that failed"
expect_refusal third third "after reloads that failed"
[[ $(shown_certificate) == *second.app.test ]] || fail "the second certificate still" "$(shown_certificate)"
ok "SIGHUP: a broken file and a broken certificate change nothing, and the log says so, with the line"
certificate third.app.test
reload "reloaded: "
[[ $(shown_certificate) == *third.app.test ]] || fail "the third certificate" "$(shown_certificate)"
ok "SIGHUP: mended, it is taken"

grep -q '^RELOADING=1' "$work/notify.log" && grep -q '^MONOTONIC_USEC=' "$work/notify.log" || fail "RELOADING=1" "$(cat "$work/notify.log")"
[ "$(grep -c '^READY=1' "$work/notify.log")" -ge 5 ] || fail "READY=1 after each reload, also those that failed" "$(cat "$work/notify.log")"
grep -q '^STATUS=no live entries; not reloaded: ' "$work/notify.log" || fail "a STATUS of a failed reload" "$(cat "$work/notify.log")"
ok "sd_notify: RELOADING=1 with the time, READY=1 and a STATUS for each reload"
sed 's/^hostname = .*/hostname = "other.app.test"/' "$work/good.toml" >"$config"
reload "changed, and taken on by a restart only: hostname"
cp "$work/good.toml" "$config"
ok "SIGHUP: a key that needs a restart is named"

# --- SIGTERM
{ cat "$work/common.toml"; user shop secret; } >"$config"
reload "reloaded: "
# ends_within SECONDS: the relay, after its signal; sets `took` and `status`.
ends_within() {
  local since=${EPOCHREALTIME/./}
  wait_for "$1" "the relay to end" ended "${pids[relay]}"
  status=0
  wait "${pids[relay]}" || status=$?
  unset 'pids[relay]'
  took=$(((${EPOCHREALTIME/./} - since) / 1000))
}
"$python" "$here/lifecycle.py" drain "$smtp_port" "${pids[relay]}"
shown=$((shown + 3))
ends_within 11
[ "$status" = 0 ] || fail "exit status 0 after SIGTERM" "$status"
ok "SIGTERM: exit 0, $took ms after the last client had gone"
grep -q STOPPING=1 "$work/notify.log" || fail "STOPPING=1" "$(cat "$work/notify.log")"
ok "sd_notify: STOPPING=1"
arrived() { jq -re "select(.to == [\"$1\"]).file" "$work/sink/index" | grep -q .; }

start_relay
wait_for 10 "the message of the client in the middle of DATA" arrived half@example.test
ok "SIGTERM: the message that got its 250 meanwhile arrived"

start hang "$python" "$here/lifecycle.py" hang "$smtp_port"
wait_for 10 "a client in the middle of DATA" grep -qs half "$work/hang.log"
kill -TERM "${pids[relay]}"
ends_within 11
[ "$status" = 0 ] || fail "exit status 0 with a client that hangs" "$status"
ok "SIGTERM: a client that hangs in DATA does not keep the relay: exit 0 after $took ms"

start_relay
: >"$work/hang.log"
start hang "$python" "$here/lifecycle.py" hang "$smtp_port"
wait_for 10 "a client in the middle of DATA" grep -qs half "$work/hang.log"
: >"$work/relay.log"
kill -TERM "${pids[relay]}"
wait_for 5 "the log to say: stopping" says "stopping"
kill -TERM "${pids[relay]}"
sleep 1.2
ended "${pids[relay]}" && fail "two SIGTERMs within a second to be one" "the relay ended"
ok "second SIGTERM within a second: counts as one"
kill -TERM "${pids[relay]}"
ends_within 2
[ "$status" = 1 ] || fail "exit status 1 after a later SIGTERM" "$status"
ok "a later SIGTERM: ends at once, $took ms"

# --- What a relay has no use for, and two families on one port
other_port=$(free_port)
{ cat "$work/common.toml"; printf '[[listener]]\naddress = "%s"\n' "0.0.0.0:$other_port" "[::]:$other_port"; user shop secret; } >"$config"
start_relay
for signal in USR1 USR2 QUIT; do kill -"$signal" "${pids[relay]}"; done
wait_for 5 "the log to name SIGQUIT" says "SIGQUIT means nothing here"
answers "$smtp_port" || fail "the relay to go on after SIGUSR1, SIGUSR2 and SIGQUIT" "no answer"
ok "SIGUSR1, SIGUSR2, SIGQUIT: told, and nothing else"
for address in 127.0.0.1 ::1; do
  swaks --server "$address" --port "$other_port" --quit-after EHLO >>"$work/swaks.log" 2>&1 || fail "an answer at $address" "none"
done
ok "listeners at 0.0.0.0 and [::] with one port: both answer"
stop relay || true
{ cat "$work/common.toml"; user shop secret; } >"$config"

# --- What stays
modes=$(find "$work/data" \( -type d ! -perm 0700 \) -o \( -type f ! -perm 0600 \) | head -n 3)
[ -z "$modes" ] || fail "0700 and 0600 everywhere in the data directory" "$(xargs ls -ld <<<"$modes")"
ok "data directory: $(find "$work/data" -type d | wc -l) folders 0700, $(find "$work/data" -type f | wc -l) files 0600"

: >"$work/relay.log"
start_relay
mail() { # PASSWORD RECIPIENT
  swaks --server "127.0.0.1:$smtp_port" --auth-user shop --auth-password "$1" --auth PLAIN --from otp@app.test --to "$2@example.test" \
    --header "Subject: Zebrafish sign-in" --body 739146 >>"$work/swaks.log" 2>&1
}
mail secret alice || fail "the message to be taken" "$(tail -n 3 "$work/swaks.log")"
mail secret echo || fail "the message to be taken" "$(tail -n 3 "$work/swaks.log")"
mail wrong-password-4711 alice && fail "the wrong password to be refused" "success"
# A password where a command is due, and a code in a command that does not exist.
printf 'EHLO x\r\nsecret\r\n739146 Zebrafish\r\nAUTH LOGIN\r\nc2hvcA==\r\n!wrong-password-4711\r\nQUIT\r\n' |
  timeout 10 openssl s_client -quiet -crlf -connect "127.0.0.1:$smtp_port" -starttls smtp >>"$work/swaks.log" 2>&1 || true
expect_event 10 "delivered" '.event == "delivered" and .recipient == "alice@example.test"'
expect_event 10 "failed" '.event == "failed" and .recipient == "echo@example.test" and (.reply | startswith("554 5.7.1"))'
ok "log: a reply that quotes the message is kept as: $(jq -r .reply <<<"$seen")"
stop relay || fail "exit status 0 of the relay" "$?"
encoded() { printf '\0shop\0%s' "$1" | base64; }
for secret in 739146 Zebrafish sign-in secret wrong-password-4711 "$(encoded secret)" "$(encoded wrong-password-4711)"; do
  found=$(grep -iaF -- "$secret" "$work/relay.log" || true)
  [ -z "$found" ] || fail "no \"$secret\" in the log" "$found"
done
ok "log: no code, subject, password or AUTH token in $(wc -l <"$work/relay.log") lines at level trace"
