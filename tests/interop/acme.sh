#!/bin/bash
# Certificates by ACME from pebble (Debian), the CA that Let's Encrypt has for tests: issue by http-01 and tls-alpn-01, with nonces
# that the CA refuses, renewal, and a CA that is down. Then certificates from files: taken on without a signal, chosen by SNI.
# pebble 2.4 offers neither dns-persist-01 nor renewal information; acme2certifier (PyPI) does, and does not say again which certificate
# an order replaces, as it must.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need pebble openssl curl

smtp=2591 tls=5001 http=8591 web=5002 ca=14000
certs=$work/certs
mkdir -p "$certs"
# The CA's own web server has a certificate of an authority that only the relay's ca_file knows.
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=authority" -keyout "$certs/authority.key" -out "$certs/authority.pem" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=ca-web" -keyout "$certs/web.key" -out "$certs/web.csr" 2>/dev/null
openssl x509 -req -in "$certs/web.csr" -CA "$certs/authority.pem" -CAkey "$certs/authority.key" -CAcreateserial -days 2 \
  -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:localhost") -out "$certs/web.pem" 2>/dev/null
cat >"$work/pebble.json" <<JSON
{"pebble": {"listenAddress": "127.0.0.1:$ca", "managementListenAddress": "127.0.0.1:15000", "certificate": "$certs/web.pem",
 "privateKey": "$certs/web.key", "httpPort": $web, "tlsPort": $tls, "ocspResponderURL": "",
 "externalAccountBindingRequired": false, "certificateValidityPeriod": 90}}
JSON

start_ca() {
  PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=20 PEBBLE_AUTHZREUSE=0 pebble -config "$work/pebble.json" -dnsserver 127.0.0.1:8053 \
    >>"$work/pebble.log" 2>&1 &
  pids[pebble]=$!
  wait_for "the CA" curl -sk -o /dev/null "https://127.0.0.1:$ca/dir"
}

stop() { kill "${pids[$1]}" 2>/dev/null || true; wait "${pids[$1]}" 2>/dev/null || true; unset "pids[$1]"; }

# wait_for WHAT COMMAND...: up to 100 s.
wait_for() {
  local what=$1 tries
  shift
  for tries in $(seq 200); do "$@" && return; sleep 0.5; done
  fail "$what within 100 s" "nothing of it"
}

# config NAME CHALLENGE: a relay of its own folder.
config() {
  mkdir -p "$work/$1"
  cat >"$work/$1/relay.toml" <<TOML
hostname = "relay.app.test"
[[listener]]
address = "127.0.0.1:$smtp"
[[listener]]
address = "127.0.0.1:$tls"
tls = "implicit"
[http]
address = "127.0.0.1:$http"
[resolver]
nameservers = ["127.0.0.1:8053"]
[acme]
domains = ["relay.app.test", "mail.app.test"]
email = "postmaster@app.test"
directory = "https://127.0.0.1:$ca/dir"
ca_file = "$certs/authority.pem"
challenge = "$2"
http_address = "127.0.0.1:$web"
TOML
}

start_relay() {
  "$relay" serve -c "$work/$1/relay.toml" >>"$work/$1.log" 2>&1 &
  pids[relay]=$!
  wait_for "the relay" "$relay" healthz --url "http://127.0.0.1:$http"
}

shown() { openssl s_client -connect "127.0.0.1:$smtp" -starttls smtp "$@" </dev/null 2>/dev/null; }
issuer() { shown | openssl x509 -noout -issuer 2>/dev/null; }
serial() { shown | openssl x509 -noout -serial 2>/dev/null; }
is_of_ca() { issuer | grep -q Pebble; }
has_line() { grep -q "$2" "$work/$1.log"; }
gauge() { curl -s "http://127.0.0.1:$http/metrics" | sed -n 's/^otp_relay_tls_certificate_expires_timestamp_seconds{.*} //p'; }

pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 "" -dns01 127.0.0.1:8053,127.0.0.75:53 -http01 "" -https01 "" -tlsalpn01 "" \
  -management 127.0.0.1:8055 >"$work/dns.log" 2>&1 &
pids[dns]=$!

config web http-01
start_relay web
wait_for "a failure in the log" has_line web "no certificate from the CA; the one that is there stays"
is_of_ca && fail "the made-up certificate" "one of the CA"
ok "while the CA is down, the made-up certificate is shown and the log says why"

stop relay
start_ca
start_relay web
wait_for "a certificate of the CA" is_of_ca
ok "http-01: issued, with a fifth of all nonces refused: $(issuer)"
says "DNS:mail.app.test, DNS:relay.app.test\|DNS:relay.app.test, DNS:mail.app.test" openssl x509 -noout -ext subjectAltName -in <(shown) ||
  fail "both names" "$(shown | openssl x509 -noout -ext subjectAltName)"
modes=$(find "$work/web/data/acme" -type f -printf '%m\n' | sort -u)
[ "$modes" = 600 ] || fail "mode 600 in data_dir/acme" "$modes"
ok "account and certificate have mode 600"

first=$(serial)
renewed() { [ "$(serial)" != "$first" ]; }
wait_for "a renewal at two thirds of 90 s" renewed
is_of_ca || fail "a certificate of the CA" "$(issuer)"
[ "$(grep -c "an account was made" "$work/web.log")" = 1 ] || fail "one account" "several"
ok "renewed before its end, with the same account and without a restart"

stop pebble
before=$(serial) end=$(gauge)
failures=$(grep -c "no certificate from the CA" "$work/web.log")
more() { [ "$(grep -c "no certificate from the CA" "$work/web.log")" -gt "$failures" ]; }
wait_for "a failure when the CA is down at the renewal" more
[ "$(serial)" = "$before" ] || fail "the certificate of before" "another"
[ "$(gauge)" = "$end" ] || fail "the same end in the metrics" "$(gauge)"
ok "when the CA is down at the renewal, the old one stays, and log and gauge say so"
stop relay

start_ca
config alpn tls-alpn-01
start_relay alpn
wait_for "a certificate of the CA by tls-alpn-01" is_of_ca
ok "tls-alpn-01: issued by the listener with implicit TLS: $(issuer)"
stop relay

made() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" -addext "subjectAltName=DNS:$1" \
    -keyout "$2.key.new" -out "$2.pem.new" 2>/dev/null
  chmod 600 "$2.key.new"
  mv "$2.key.new" "$2.key"
  mv "$2.pem.new" "$2.pem"
}
config files http-01
sed -i '/^\[acme\]/,$d' "$work/files/relay.toml"
made relay.app.test "$certs/a"
made other.test "$certs/b"
cat >>"$work/files/relay.toml" <<TOML
[tls]
certificate = "$certs/a.pem"
private_key = "$certs/a.key"
[[certificate]]
certificate = "$certs/b.pem"
private_key = "$certs/b.key"
TOML
start_relay files
subject() { shown -servername "$1" | openssl x509 -noout -subject; }
[ "$(subject other.test)" = "subject=CN = other.test" ] || fail "other.test by SNI" "$(subject other.test)"
[ "$(subject whatever.test)" = "subject=CN = relay.app.test" ] || fail "the default" "$(subject whatever.test)"
ok "certificates are chosen by the name that the client asks for"
first=$(serial)
made relay.app.test "$certs/a"
for _ in $(seq 100); do renewed && break; sleep 0.1; done
renewed || fail "the new file within 10 s, without a signal" "the old one"
ok "a certificate file is taken on within 10 s of its change"
stop relay

# --- Another CA: acme2certifier, which has dns-persist-01 and renewal information.
venv acme2certifier
mkdir -p "$work/ca/issued"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=second authority" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -keyout "$work/ca/key.pem" -out "$work/ca/certificate.pem" 2>/dev/null
cat >"$work/ca/settings" <<CONF
[DEFAULT]
dns_server_list: ["127.0.0.75"]
debug: False
[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: $work/ca/key.pem
issuing_ca_cert: $work/ca/certificate.pem
issuing_ca_crl: $work/ca/crl.pem
cert_validity_days: 1
cert_save_path: $work/ca/issued
[DBhandler]
handler: wsgi
dbfile: $work/ca/database
[Directory]
caaidentities: ["ca.test"]
[Challenge]
dns_persist_01_support: True
[Renewalinfo]
# A certificate lives for a day; it is to be renewed after 26 s, within 4 s.
renewalthreshold_pctg: 0.03
renewal_window_duration: 4
retry_after_timeout: 5
CONF
stop pebble
start second-ca "$python" "$here/acme_ca.py" "$work/ca/settings" "$ca" "$certs/web.pem" "$certs/web.key"
wait_for "the second CA" curl -skf -o /dev/null "https://127.0.0.1:$ca/directory"
config persist dns-persist-01
sed -i "s|/dir\"|/directory\"|" "$work/persist/relay.toml"
start_relay persist
has_record() { says '^_validation-persist.relay.app.test. 3600 IN TXT "ca.test; accounturi=' "$relay" check --offline -c "$work/persist/relay.toml" 2>/dev/null; }
wait_for "the record" has_record
is_of_second() { issuer | grep -q "second authority"; }
is_of_second && fail "no certificate without the records" "$(issuer)"
ok "dns-persist-01: the account is made, and check prints the records"
stop relay
"$relay" check --offline -c "$work/persist/relay.toml" 2>/dev/null | sed -n 's/^\(_validation-persist[^ ]*\) 3600 IN TXT "\(.*\)"$/{"host": "\1", "value": "\2"}/p' >"$work/records"
while read -r record; do curl -sf -d "$record" http://127.0.0.1:8055/set-txt || fail "a record in DNS" "$record"; done <"$work/records"
start_relay persist
wait_for "a certificate by dns-persist-01" is_of_second
ok "dns-persist-01: issued, the records being there: $(issuer)"
first=$(serial)
wait_for "a renewal when the CA suggests it" renewed
is_of_second || fail "a certificate of the CA" "$(issuer)"
ok "renewal information: renewed within the time that the CA suggested, hours before two thirds of its life"
stop relay
