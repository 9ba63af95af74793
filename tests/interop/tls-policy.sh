#!/usr/bin/env bash
# DANE and MTA-STS against a real Postfix, with DNS that a real signer signed (BIND's, served by NSD) and certificates made
# here, good and bad: what may be sent arrives, and the log says who verified the host; what may not is held back.
#   usage: tls-policy.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"
# Installing a name server must not start one.
RUNLEVEL=1 need swaks nsd bind9-utils

web=127.0.0.5
smtp_port=$(free_port) mx_port=$(free_port) dns_port=$(free_port)
dane=(ee-good ee-bad ta-good ta-name forged unusable unsigned.island)
sts=(sts-good sts-bad sts-unnamed sts-testing sts-strange)
domains=() && for domain in "${dane[@]}" "${sts[@]}"; do domains+=("$domain.test"); done

# Certificates: an authority, the mail host, the web server; and an authority that nobody knows.
certificate() { # NAME AUTHORITY SUBJECT-ALT-NAME...
  local names=("${@:3}")
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.csr"
  openssl x509 -req -in "$work/$1.csr" -CA "$work/$2.pem" -CAkey "$work/$2.key" -CAcreateserial -days 2 -out "$work/$1.pem" \
    -extfile <(printf 'subjectAltName=%s\n' "$(IFS=,; echo "${names[*]/#/DNS:}")")
  cat "$work/$2.pem" >>"$work/$1.pem"
}
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=authority $1" -keyout "$work/$1.key" -out "$work/$1.pem"
}
{
  authority known
  authority unknown
  certificate mx known mx.example.test mx-ta.test
  # The policy of sts-strange.test is not served under a good name.
  certificate web known mta-sts.{sts-good,sts-bad,sts-unnamed,sts-testing}.test
} 2>>"$work/openssl.log"
key_digest=$(openssl x509 -in "$work/mx.pem" -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum | cut -d' ' -f1)
authority_digest=$(openssl x509 -in "$work/known.pem" -outform DER | sha256sum | cut -d' ' -f1)
wrong_digest=$(printf 0%.0s {1..64})

# One signed zone, the root itself, so that one key is the trust anchor; and one that the root leaves unsigned.
mkdir -p "$work/zones"
mx() { printf '%s\n' "$1.test. MX 10 $2." ; }
tlsa() { printf '%s\n' "$1. A 127.0.0.1" "_25._tcp.$1. TLSA $2"; }
{
  printf '%s\n' '$TTL 60' '. SOA ns.test. admin.test. 1 3600 600 86400 60' '. NS ns.test.' 'ns.test. A 127.0.0.1' \
    'island.test. NS ns.test.' 'mx.example.test. A 127.0.0.1' 'mx-other.test. A 127.0.0.1'
  mx ee-good mx-ee.test && tlsa mx-ee.test "3 1 1 $key_digest"
  mx ee-bad mx-bad.test && tlsa mx-bad.test "3 1 1 $wrong_digest"
  mx ta-good mx-ta.test && tlsa mx-ta.test "2 0 1 $authority_digest"
  mx ta-name mx-name.test && tlsa mx-name.test "2 0 1 $authority_digest"
  mx forged mx-forged.test && tlsa mx-forged.test "3 1 1 $key_digest"
  mx unusable mx-unusable.test && tlsa mx-unusable.test "1 1 1 $key_digest"
  for domain in "${sts[@]}"; do
    [ "$domain" = sts-good ] && mx "$domain" mx.example.test || mx "$domain" mx-other.test
    printf '%s\n' "_mta-sts.$domain.test. TXT \"v=STSv1; id=1;\"" "mta-sts.$domain.test. A $web"
  done
} >"$work/zones/root"
printf '%s\n' '$TTL 60' 'island.test. SOA ns.test. admin.test. 1 3600 600 86400 60' 'island.test. NS ns.test.' \
  'unsigned.island.test. MX 10 mx.island.test.' 'mx.island.test. A 127.0.0.1' \
  "_25._tcp.mx.island.test. TLSA 3 1 1 $wrong_digest" >"$work/zones/island"
(
  cd "$work/zones"
  dnssec-keygen -q -a ECDSAP256SHA256 -f KSK . >ksk
  dnssec-keygen -q -a ECDSAP256SHA256 . >zsk
  cat "$(cat ksk).key" "$(cat zsk).key" >>root
  dnssec-signzone -q -O full -o . -f signed root
  # Somebody puts another key in, and cannot sign it.
  sed -i "/^_25\._tcp\.mx-forged\.test\..*TLSA/ s/${key_digest:0:16}/ffffffffffffffff/I" signed
) >>"$work/zones.log" 2>&1
grep -qi ffffffffffffffff "$work/zones/signed" || fail "a forged record" "$(grep -A2 mx-forged "$work/zones/signed")"
grep -v '^;' "$work/zones/$(cat "$work/zones/ksk").key" >"$work/trust-anchor"
cat >"$work/nsd.conf" <<CONFIG
server:
  ip-address: 127.0.0.1@$dns_port
  username: ""
  chroot: ""
  zonesdir: "$work/zones"
  pidfile: "$work/nsd.pid"
  database: ""
  xfrdfile: "$work/nsd.xfrd"
  xfrdir: "$work"
  zonelistfile: "$work/nsd.zones"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "signed"
zone:
  name: "island.test."
  zonefile: "island"
CONFIG
start nsd nsd -d -c "$work/nsd.conf"
wait_for 10 "NSD to listen" answers "$dns_port"

mkdir "$work/policies"
policy() { # NAME MODE HOST
  printf '%s\r\n' 'version: STSv1' "mode: $2" "mx: $3" 'max_age: 86400' >"$work/policies/mta-sts.$1.test"
}
policy sts-good enforce mx.example.test
policy sts-bad enforce '*.test'
policy sts-unnamed enforce '*.elsewhere.test'
policy sts-testing testing mx-other.test
policy sts-strange enforce mx.elsewhere.test
start_printing web web_port "$python" "$here/policy_server.py" "$work/policies" "$work/web.pem" "$work/web.key" "$web"

make_postfix "${domains[@]}"
postconf -c "$work/etc" -e "smtpd_tls_cert_file = $work/mx.pem" "smtpd_tls_key_file = $work/mx.key" \
  "smtpd_tls_security_level = may" "smtpd_tls_loglevel = 1"
postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"

listener_options=$'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]'
{ base_config; printf '%s\n' '[[user]]' 'name = "trusted"' 'senders = ["*@app.test"]'; } | sed \
  -e "s|^dnssec = false|trust_anchor = \"$work/trust-anchor\"|" -e "s|^\[delivery\]|&\nca_file = \"$work/known.pem\"|" >"$work/relay.toml"
start_relay

submit() { # RECIPIENT
  swaks --server "127.0.0.1:$smtp_port" --from otp@app.test --to "$1" --header "Subject: 123456 is your code" \
    --body "The code for $1." >>"$work/swaks.log" 2>&1 || fail "swaks to submit to $1" "$(tail -n 3 "$work/swaks.log")"
}
has_arrived() { grep -rqs "^The code for $1\." "$work/mail/inbox"; }

arrives() { # RECIPIENT HOW WHAT
  submit "$1"
  expect_event 15 "an end for $1" ".recipient == \"$1\" and (.event == \"delivered\" or .event == \"deferred\")"
  jq -e --arg how "$2" '.event == "delivered" and (.note // "" | contains($how))' <<<"$seen" >/dev/null || fail "$1 delivered, $2" "$seen"
  wait_for 10 "the message to $1 in the mailbox" has_arrived "$1"
  ok "$3: delivered, $(jq -r .note <<<"$seen")"
}
is_held() { # RECIPIENT WHY WHAT
  submit "$1"
  expect_event 15 "an end for $1" ".recipient == \"$1\" and (.event == \"delivered\" or .event == \"deferred\")"
  jq -e --arg why "$2" '.event == "deferred" and .cause == "tls_required" and (.reply // "" | contains($why))' <<<"$seen" >/dev/null ||
    fail "$1 held back: $2" "$seen"
  has_arrived "$1" && fail "nothing for $1 in the mailbox" "a message"
  ok "$3: held back, $(jq -r .reply <<<"$seen")"
}

arrives a@ee-good.test "verified by DANE-EE" "DANE-EE, the right key"
is_held a@ee-bad.test "not one of those in DNS" "DANE-EE, another key"
arrives a@ta-good.test "verified by DANE-TA" "DANE-TA, the right authority"
is_held a@ta-name.test "certificate" "DANE-TA, the right authority, another name"
is_held a@forged.test "TLSA records cannot be looked up" "a TLSA record that was changed on the way"
arrives a@unusable.test "not verified" "a TLSA record that mail does not use"
arrives a@unsigned.island.test "not verified" "a wrong TLSA record that nobody signed"
arrives a@sts-good.test "verified by name (MTA-STS)" "MTA-STS enforced, a good certificate"
is_held a@sts-bad.test "certificate" "MTA-STS enforced, a certificate for another name"
is_held a@sts-unnamed.test "policy does not name it" "MTA-STS enforced, a host that it does not name"
arrives a@sts-testing.test "MTA-STS would refuse" "MTA-STS tested, a certificate for another name"
arrives a@sts-strange.test "not verified" "an MTA-STS policy from a web server with a wrong certificate"

# The policy is remembered when its web server is gone, and a host that stops offering TLS gets nothing.
stop web KILL || true
stop relay || true
postfix_is stop
postconf -c "$work/etc" -e "smtpd_tls_security_level = none"
postfix_is start
wait_for 20 "Postfix to listen again" answers "$mx_port"
start_relay
is_held b@sts-good.test STARTTLS "MTA-STS enforced, no STARTTLS offered, after a restart without the policy's web server"
is_held b@ee-good.test STARTTLS "DANE, no STARTTLS offered"
submit b@sts-testing.test
expect_event 15 "a delivery in clear text" '.event == "delivered" and .recipient == "b@sts-testing.test" and .note == "in clear text"'
ok "MTA-STS tested, no STARTTLS offered: delivered in clear text"
