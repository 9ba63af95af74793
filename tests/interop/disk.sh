#!/usr/bin/env bash
# The data directory's disk hangs, fills up, and breaks. New mail is refused with a reply that says to come back, what was
# accepted leaves all the same, and the relay goes on by itself where the disk does. A service manager that watches is told of
# the disk that hangs, and is given no reason to kill the relay.
#   usage: disk.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need e2fsprogs curl

mount_disk() { mount -o loop "$work/disk.img" "$work/disk"; }
cleanup() {
  fsfreeze -u "$work/disk" 2>/dev/null || true
  stop relay KILL 2>/dev/null || true
  umount "$work/disk" 2>/dev/null || umount -l "$work/disk" || true
}
mkdir "$work/disk"
truncate -s 256M "$work/disk.img"
mkfs.ext4 -q -m 0 "$work/disk.img"
mount_disk

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking --keep index
smtp_port=$(free_port)
http_port=$(free_port)
listener_options=$'tls = "none"\nauth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
base_config |
  sed -e "s|^data_dir = .*|data_dir = \"$work/disk/data\"|" -e "s|^address = \"off\"|address = \"127.0.0.1:$http_port\"|" |
  cat - <(printf '[[user]]\nname = "trusted"\nsenders = ["*@app.test"]\n') >"$work/relay.toml"
start notify "$python" "$here/notify_socket.py" "$work/notify"
wait_for 10 "the notify socket" grep -qs listening "$work/notify.log"
NOTIFY_SOCKET=$work/notify WATCHDOG_USEC=2000000 start_relay

submitted=0
# reply_to_one: submits a message; what was said to it is in `$reply`.
reply_to_one() {
  submitted=$((submitted + 1))
  reply=$("$python" - "$smtp_port" "n$submitted" <<'PYTHON'
import sys
import smtp_client
try:
    with smtp_client.Client(int(sys.argv[1])) as client:
        client.greet()
        client.envelope("otp@app.test", [f"{sys.argv[2]}@example.test"])
        print("250", client.data(b"From: otp@app.test\r\nSubject: x\r\n\r\nx\r\n"))
except smtp_client.Refused as refused:
    print(refused)
PYTHON
  )
}
expect_reply() {
  reply_to_one
  [[ $reply == $1* ]] || fail "the reply $1 $2" "$reply"
}
arrived() { wc -l <"$work/sink/index"; }
have_arrived() { [ "$(arrived)" -ge "$1" ]; }
readiness() { curl -s -o "$work/ready" -w '%{http_code}' "http://127.0.0.1:$http_port/readyz"; }
is_ready() { [ "$(readiness)" = 200 ]; }
is_not_ready() { [ "$(readiness)" = 503 ]; }
# hold NUMBER: so many messages are accepted, and on their way to a mail host that stands still.
hold() {
  kill -STOP "${pids[sink]}"
  for _ in $(seq "$1"); do expect_reply 250 "while the mail host stands still"; done
}

expect_reply 250 "on a good disk"
wait_for 10 "the first message" have_arrived 1

# A disk that takes its time: what was accepted leaves, what comes waits for its sync.
hold 5
fsfreeze -f "$work/disk"
kill -CONT "${pids[sink]}"
wait_for 15 "five messages to leave while the disk hangs" have_arrived 6
start slow "$python" -c "
import smtp_client
with smtp_client.Client($smtp_port) as client:
    client.greet()
    client.envelope('otp@app.test', ['slow@example.test'])
    client.data(b'From: otp@app.test\r\n\r\nx\r\n')"
sleep 3
kill -0 "${pids[slow]}" || fail "no 250 while the disk hangs" "the client is done"
wait_for 30 "STATUS to say that the disk hangs" grep -q '^STATUS=.*; the disk hangs for [0-9]* s' "$work/notify.log"
pings() { grep -c '^WATCHDOG=1' "$work/notify.log"; }
before=$(pings)
pinged() { [ "$(pings)" -gt $((before + 2)) ]; }
wait_for 10 "the watchdog to be pinged while the disk hangs" pinged
grep -q '"level":"error","message":"the disk hangs: ' "$work/relay.log" || fail "an error in the log" "$(tail -n 3 "$work/relay.log")"
told=$(grep '^STATUS=' "$work/notify.log" | tail -n 1)
fsfreeze -u "$work/disk"
wait "${pids[slow]}" || fail "a 250 when the disk goes on" "$(cat "$work/slow.log")"
unset 'pids[slow]'
wait_for 15 "the message that waited" have_arrived 7
ok "a disk that hangs: 5 accepted messages left meanwhile, a new one got its 250 when the disk went on"
goes_on() { ! grep '^STATUS=' "$work/notify.log" | tail -n 1 | grep -q hangs; }
wait_for 10 "STATUS without it" goes_on
ok "the service manager heard $told, and WATCHDOG=1 all the time"

# A full disk.
hold 5
dd if=/dev/zero of="$work/disk/filler" bs=1M 2>/dev/null || true
kill -CONT "${pids[sink]}"
wait_for 15 "five messages to leave while the disk is full" have_arrived 12
expect_reply "452" "on a full disk"
is_not_ready || fail "/readyz to say 503" "$(cat "$work/ready")"
grep -q "disk" "$work/ready" || fail "/readyz to say why" "$(cat "$work/ready")"
grep -q '"level":"error","message":"new mail is refused' "$work/relay.log" || fail "an error in the log" "$(tail -n 3 "$work/relay.log")"
why=$(jq -r .detail "$work/ready")
full_reply=$reply
rm "$work/disk/filler"
recovered() { reply_to_one; [[ $reply == 250* ]]; }
wait_for 15 "new mail to be taken again" recovered
wait_for 5 "/readyz to say 200" is_ready
wait_for 15 "the message after it" have_arrived 13
ok "a full disk: 5 accepted messages left meanwhile, new mail got $full_reply, /readyz: $why; it went on by itself"

# The same with mail of an earlier life, whose content is nowhere but on the disk.
before=$(arrived)
hold 5
stop relay KILL || true
start_relay
dd if=/dev/zero of="$work/disk/filler" bs=1M 2>/dev/null || true
expect_reply "452" "on a full disk"
kill -CONT "${pids[sink]}"
wait_for 45 "five messages of an earlier life to leave while the disk is full" have_arrived $((before + 5))
rm "$work/disk/filler"
wait_for 15 "new mail to be taken again" recovered
wait_for 15 "the message after it" have_arrived $((before + 6))
ok "a full disk after a restart: 5 messages whose content was on the disk only left meanwhile"

stop relay || fail "exit status 0" "$?"
before=$(arrived)
start_relay
sleep 2
[ "$(arrived)" = "$before" ] || fail "nothing twice after a restart" "$(($(arrived) - before)) more"
ok "after a restart nothing arrived twice"

# A disk that breaks: the kernel makes the file system read-only.
hold 5
mount -o remount,abort "$work/disk" 2>/dev/null || true
kill -CONT "${pids[sink]}"
wait_for 15 "five messages to leave while the disk is broken" have_arrived $((before + 5))
reply_to_one
[[ $reply == 45* ]] || fail "a temporary refusal on a broken disk" "$reply"
is_not_ready || fail "/readyz to say 503" "$(cat "$work/ready")"
broken="$reply, /readyz: $(jq -r .detail "$work/ready")"
stop relay KILL || true
umount "$work/disk"
e2fsck -fy "$work/disk.img" >"$work/fsck.log" 2>&1 || true
mount_disk
start_relay
expect_reply 250 "on the mended disk"
has_all() { [ "$("$python" -c "import json,sys; print(len({json.loads(l)['to'][0] for l in open('$work/sink/index')}))")" -ge $((before + 6)) ]; }
wait_for 30 "the message on the mended disk" has_all
ok "a disk that breaks: 5 accepted messages left meanwhile, new mail got $broken; after mending and a start it went on, $(($(arrived) - before - 6)) arrived twice"
