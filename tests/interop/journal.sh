#!/bin/bash
# The journal: a systemd-journald of its own (in a mount namespace) takes lines with their level from standard output, and messages
# with fields over its socket.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need systemd

mkdir -p "$work/relay"
cat >"$work/relay/relay.toml" <<'TOML'
hostname = "relay.app.test"
[[listener]]
address = "127.0.0.1:2571"
auth = "trusted"
trusted_networks = ["127.0.0.0/8"]
[[user]]
name = "trusted"
senders = ["*@app.test"]
[http]
address = "127.0.0.1:8571"
[resolver]
nameservers = ["127.0.0.1:9"]
[submission]
verify_domain = false
TOML
cp "$work/relay/relay.toml" "$work/relay/native.toml"
printf '[log]\nformat = "journald"\n' >>"$work/relay/native.toml"

cat >"$work/inside" <<'SH'
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald >"$work/journald.log" 2>&1 &
journald=$!
for _ in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
once() {
  local name=$1 pid
  shift
  "$@" >"$work/$name.log" 2>&1 &
  pid=$!
  for _ in $(seq 200); do "$relay" healthz --url http://127.0.0.1:8571 >/dev/null 2>&1 && break; sleep 0.1; done
  "$relay" send --from otp@app.test --to alice@example.test --code 481516 --ttl 5s -c "$work/relay/relay.toml" >>"$work/$name.log" 2>&1 || true
  kill "$pid"
  wait "$pid" || true
}
once native "$relay" serve -c "$work/relay/native.toml"
# As the service manager does: it names the stream.
once stream systemd-cat -t stream sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1) exec "$@"' sh \
  "$relay" serve -c "$work/relay/relay.toml"
sleep 1
journalctl --no-pager -D /run/log/journal -o json --all SYSLOG_IDENTIFIER=otp-relay >"$work/native.json"
journalctl --no-pager -D /run/log/journal -o json --all -t stream >"$work/stream.json"
kill "$journald"
wait "$journald" || true
SH
export work relay
timeout 120 unshare -m bash "$work/inside" >"$work/inside.log" 2>&1 || fail "a journal" "$(tail -n 3 "$work/inside.log")"

entry=$(jq -r 'select(.EVENT == "expired") | .ENTRY' "$work/native.json" | head -n 1)
[ -n "$entry" ] || fail "an event that the code expired" "$(tail -n 2 "$work/native.json")"
ok "log.format = \"journald\": ENTRY=$entry is found by its field"
jq -es 'any(.[]; .EVENT == "expired" and (.RECIPIENT_HASH | length) == 12)' "$work/native.json" >/dev/null || fail "a hash of the recipient" none
grep -q 'alice@' "$work/native.json" && fail "no address" "$(grep -o '.\{20\}alice@' "$work/native.json" | head -n 1)"
ok "the recipient is there as a hash, the address is not"
jq -es 'any(.[]; .PRIORITY == "4" and (.MESSAGE | test("no DKIM key")))' "$work/native.json" >/dev/null || fail "a warning with priority 4" none
ok "warnings have priority 4"
jq -es 'any(.[]; .PRIORITY == "4" and (.MESSAGE | test("no DKIM key")))' "$work/stream.json" >/dev/null || fail "a warning with priority 4 on the stream" "$(jq -c '[.PRIORITY, .MESSAGE]' "$work/stream.json" | grep DKIM | head -n 1)"
jq -es 'any(.[]; .MESSAGE | test("^<"))' "$work/stream.json" >/dev/null && fail "no level left in the text" some
ok "on standard output, too"
