#!/usr/bin/env bash
# What the README says, done as it says it, on a machine of its own (a network namespace with a public address, port 25 and DNS):
# keys, the printed zone pasted into NSD, `check`, and the clients of README and docs/clients.md as they are written there, which
# verify the made-up certificate. Each code arrives at a Postfix that asks for a full EHLO name and for the way back, signed, with SPF that passes.
#   usage: first-day.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$here/postfix.sh"
if [ -z "${TOOLS:-}" ]; then
  # What is to be installed has to be there before the network is gone.
  RUNLEVEL=1 need nsd iproute2 php-cli libphp-phpmailer golang-go swaks libnet-ssleay-perl
  command -v npm >/dev/null || need nodejs npm
  venv wheel dkimpy pynacl dnspython pyspf
  npm install --silent --no-fund --no-audit --prefix "$work/node" nodemailer >"$work/npm.log" 2>&1
  unset -f cleanup
  TOOLS=$work unshare --net --mount "$0" "$@"
  exit
fi

relay_ip=44.1.1.1 mx_ip=44.1.1.2
# Postfix has a machine of its own beside it.
start mx-machine unshare --net sleep infinity
wait_for 5 "another network" sh -c "[ \"\$(readlink /proc/${pids[mx-machine]}/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ]"
at_mx() { nsenter --target "${pids[mx-machine]}" --net "$@"; }
ip link add relay type veth peer name mx netns "${pids[mx-machine]}"
ip link set lo up
ip link set relay up
ip address add $relay_ip/24 dev relay
ip route add default via $mx_ip
at_mx ip link set lo up
at_mx ip link set mx up
at_mx ip address add $mx_ip/24 dev mx
echo "nameserver $relay_ip" >"$work/resolv.conf"
printf '%s\n' "127.0.0.1 localhost" "$relay_ip relay.example.com" >"$work/hosts"
mount --bind "$work/resolv.conf" "$(realpath /etc/resolv.conf)"
mount --bind "$work/hosts" /etc/hosts
documents=("$here/../../README.md" "$here/../../docs/clients.md")

# The first block of code that holds these words, in the README or in docs/clients.md.
block() {
  awk -v words="$1" '/^```/ { if (inside && index(text, words)) { printf "%s", text; exit } inside = !inside; text = ""; next } inside { text = text $0 "\n" }' "${documents[@]}" | grep . ||
    fail "a block with \"$1\" in the README or docs/clients.md" "none"
}

# The machine as a newcomer has it: the repository's configuration, and the program.
mkdir -p "$work/clone" "$work/bin"
cp -r "$here/../../config" "$here/../../certs" "$work/clone/"
rm -rf "$work/clone/config/data" "$work/clone/config/certs"
ln -s "$relay" "$work/bin/otp-relay"
PATH=$work/bin:$PATH
cd "$work/clone"
block 'hostname = "relay.example.com"' >"$work/example.toml"
grep -m 1 '^hostname' "$work/example.toml" >config/relay.toml
block 'otp-relay dkim generate' | grep -o 'otp-relay dkim generate [a-z0-9. ]*' | sed 's/ *$//' >"$work/generate.sh"
sh "$work/generate.sh" >"$work/generated" 2>&1
otp-relay user hash --generate >"$work/hash" 2>"$work/password"
password=$(sed 's/^password: //' "$work/password")
sed "s|^password_hash = .*|password_hash = \"$(cat "$work/hash")\"|; /^\[\[dkim\]\]/,\$d" "$work/example.toml" >config/relay.toml
sed -n '/^\[\[dkim\]\]/,$p' "$work/generated" >>config/relay.toml
chmod 600 config/relay.toml
otp-relay check --offline >"$work/checked" || fail "no errors" "$(cat "$work/checked")"
grep -q '^; ok: .*no errors, 0 warnings$' "$work/checked" || fail "nothing to warn of" "$(grep '^; [ew]' "$work/checked")"
ok "the README's configuration: $(tail -n 1 "$work/checked")"

# The zone as it was printed, and the way back as the provider is asked for it.
[ "$(grep ' IN ' "$work/generated")" = "$(grep ' IN ' "$work/checked")" ] || fail "the same zone from both" "$(diff "$work/generated" "$work/checked")"
{
  printf '%s\n' '$TTL 60' '. SOA ns.test. admin.test. 1 3600 600 86400 60' '. NS ns.test.' 'ns.test. A 127.0.0.1' \
    'example.net. MX 10 mx.example.net.' 'example.com. MX 10 mx.example.net.' "mx.example.net. A $mx_ip"
  cat "$work/generated" | sed '/^; The keys are made/,$d'
  sed -n 's/^;   \(.* IN PTR .*\)/\1/p' "$work/generated"
} >"$work/root.zone"
nsd-checkzone . "$work/root.zone" >"$work/checkzone.log" || fail "a zone that NSD takes" "$(cat "$work/checkzone.log")"
cat >"$work/nsd.conf" <<CONFIG
server:
  ip-address: $relay_ip
  username: ""
  zonesdir: "$work"
  database: ""
  pidfile: "$work/nsd.pid"
  xfrdfile: "$work/xfrd.state"
  zonelistfile: "$work/zone.list"
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
CONFIG
start nsd nsd -d -c "$work/nsd.conf"
answers_at() { "$python" -c "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)" "$@" 2>/dev/null; }
wait_for 10 "NSD to listen" answers_at $relay_ip 53
otp-relay check >"$work/checked" || fail "no errors online" "$(cat "$work/checked")"
ok "NSD serves the zone as it was printed: $(grep -c '^[^;].* IN ' "$work/generated") records and the way back"

# Postfix.
mx_port=25
make_postfix example.net
sed -i "s/^127.0.0.1:25 /$mx_ip:25 /" "$work/etc/master.cf"
postconf -c "$work/etc" -e inet_interfaces=all smtpd_peername_lookup=yes smtpd_delay_reject=no smtpd_helo_required=yes smtpd_tls_security_level=may \
  "smtpd_helo_restrictions = reject_non_fqdn_helo_hostname, reject_unknown_helo_hostname" \
  "smtpd_client_restrictions = reject_unknown_client_hostname"
mkdir -p "$work/spool/etc" && cp "$work/resolv.conf" "$work/spool/etc/"
at_mx postfix -c "$work/etc" start >>"$work/postfix.log" 2>&1
wait_for 20 "Postfix to listen" answers_at $mx_ip 25

start relay otp-relay serve
wait_for 20 "the relay to listen" grep -qs "INFO  listening  address=0.0.0.0:587" "$work/relay.log"
file=$(sed -n 's/.*made.*  file=\([^ ]*\)  sha256=.*/\1/p' "$work/relay.log")
[ "$file" = "$work/clone/config/data/self-signed.pem" ] || fail "the certificate's file in the log" "$(grep -i certificate "$work/relay.log")"
install -m 644 "$file" "$work/otp-relay.pem"
sent=0

# arrived HOW: one more code has come.
arrived() {
  sent=$((sent + 1))
  wait_for 20 "the code by $1" has_come
  ok "$1: the code arrived"
}
has_come() { [ "$(find "$work/mail/inbox/new" -type f 2>/dev/null | wc -l)" = "$sent" ]; }
# As it is written there: host, port, user and addresses; a password, and where libraries look for the certificate, are ours.
trusted=$work/otp-relay.pem
sed "s|/etc/ssl/otp-relay.pem|$trusted|" >"$work/readme.py" < <(block 'smtplib, ssl')
RELAY_PASSWORD=$password "$python" "$work/readme.py" >>"$work/clients.log" 2>&1 || fail "the README's Python to send" "$(tail -n 2 "$work/clients.log")"
arrived "the README's Python"
{ echo "const nodemailer = require('nodemailer'), pass = '$password'; (async () => {"; block 'nodemailer.createTransport'; echo "})();"; } >"$TOOLS/node/readme.cjs"
NODE_EXTRA_CA_CERTS=$trusted node "$TOOLS/node/readme.cjs" >>"$work/clients.log" 2>&1 || fail "the Node of docs/clients.md to send" "$(tail -n 2 "$work/clients.log")"
arrived "the Node of docs/clients.md"
{ echo "<?php require '/usr/share/php/libphp-phpmailer/autoload.php'; \$password = '$password';"; block 'PHPMailer(true)'; } >"$work/readme.php"
php -d openssl.cafile="$trusted" "$work/readme.php" >>"$work/clients.log" 2>&1 || fail "the PHP of docs/clients.md to send" "$(tail -n 2 "$work/clients.log")"
arrived "the PHP of docs/clients.md"
{ printf '%s\n' 'package main' 'import ("log"; "net/smtp")' "const password = \"$password\"" 'func main() {'
  block 'smtp.PlainAuth'; printf '%s\n' 'if err != nil { log.Fatal(err) } }'; } >"$work/readme.go"
(cd "$work" && HOME=$work GO111MODULE=off go build -o readme-go readme.go) >>"$work/clients.log" 2>&1
SSL_CERT_FILE=$trusted "$work/readme-go" >>"$work/clients.log" 2>&1 || fail "the Go of docs/clients.md to send" "$(tail -n 2 "$work/clients.log")"
arrived "the Go of docs/clients.md"
block 'swaks --server' >"$work/readme.sh"
sed "s|/etc/ssl/otp-relay.pem|$trusted|; s|--auth-user shop|& --auth-password $password|" "$work/readme.sh" | sh >>"$work/clients.log" 2>&1 ||
  fail "the README's swaks to send" "$(tail -n 2 "$work/clients.log")"
arrived "the README's swaks"
otp-relay send --to bob@example.net >"$work/send.log" 2>&1 || fail "the command to send" "$(tail -n 2 "$work/send.log")"
arrived "otp-relay send"

cat >"$work/verify.py" <<'SCRIPT'
import pathlib, sys
import dkim, spf

letters = list(pathlib.Path(sys.argv[1]).glob("new/*"))
for letter in letters:
    octets = letter.read_bytes()
    octets = octets[octets.index(b"DKIM-Signature:"):].replace(b"\n", b"\r\n")
    for index in range(2):
        if not dkim.DKIM(octets).verify(idx=index):
            sys.exit(f"signature {index} of {letter} does not hold")
verdict = spf.check2(i=sys.argv[2], s="otp@example.com", h="relay.example.com")[0]
bounce = spf.check2(i=sys.argv[2], s="", h="relay.example.com")[0]
if (verdict, bounce) != ("pass", "pass"):
    sys.exit(f"SPF: {verdict}, and without a sender {bounce}")
print(len(letters))
SCRIPT
count=$("$TOOLS/venv/bin/python3" "$work/verify.py" "$work/mail/inbox" $relay_ip) || fail "signatures and SPF that hold by DNS" "$count"
ok "$count codes in Postfix: both signatures of each hold, and SPF passes, by what NSD serves"
stop relay || fail "exit status 0 of the relay" "$?"
