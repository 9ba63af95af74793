#!/usr/bin/env bash
# Postgrey before the recipient's mail host, which greylists for longer than a code is valid; and
# another Postfix, with Cyrus SASL and TLS, as the smart host that takes over in time.
#   usage: smart-host.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"
need swaks sasl2-bin libsasl2-modules libsasl2-modules-db

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1" "smtp.example.test A 127.0.0.1"
smtp_port=$(free_port) mx_port=$(free_port) silent_port=$(free_port) told_port=$(free_port) smart_port=$(free_port) implicit_port=$(free_port) http_port=$(free_port)
mail=$work/mail/inbox/new

start_postgrey silent "$silent_port" 300
start_postgrey told "$told_port" 300 --greylist-text="Greylisted for %s seconds"
make_postfix example.test
postconf -c "$work/etc" -e "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:$silent_port"
# The smart host: only who logs in may send, and only under TLS.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=smtp.example.test \
  -addext "subjectAltName=DNS:smtp.example.test" -addext "basicConstraints=critical,CA:FALSE" \
  -keyout "$work/etc/smart.key" -out "$work/etc/smart.pem" 2>>"$work/openssl.log"
smart_service() { # NAME PORT WRAPPER: a way into the smart host
  cat >>"$work/etc/master.cf" <<SERVICE
127.0.0.1:$2 inet n - n - 20 smtpd
  -o syslog_name=postfix/$1
  -o smtpd_tls_wrappermode=$3
  -o smtpd_tls_security_level=encrypt
  -o smtpd_tls_auth_only=yes
  -o smtpd_tls_cert_file=$work/etc/smart.pem
  -o smtpd_tls_key_file=$work/etc/smart.key
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_sasl_local_domain=example.test
  -o smtpd_sasl_path=smtpd
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
SERVICE
}
smart_service smart "$smart_port" no
smart_service smtps "$implicit_port" yes
mkdir -p "$work/etc/sasl"
postconf -c "$work/etc" -e "cyrus_sasl_config_path = $work/etc/sasl"
printf %s secret | saslpasswd2 -p -c -f "$work/etc/sasldb2" -u example.test relay
chmod 640 "$work/etc/sasldb2"
chgrp postfix "$work/etc/sasldb2"
mechanisms() { # what the smart host offers
  printf '%s\n' "pwcheck_method: auxprop" "auxprop_plugin: sasldb" "sasldb_path: $work/etc/sasldb2" "mech_list: $*" >"$work/etc/sasl/smtpd.conf"
}

# relay_config: with the smart host, to be logged in at with the password in $work/password.
relay_config() {
  base_config | sed -e "s/^address = \"127.0.0.1:$smtp_port\"/&\nauth = \"trusted\"\ntrusted_networks = [\"127.0.0.0\/8\"]/" \
    -e "s|^\[delivery\]|&\nca_file = \"$work/etc/smart.pem\"|" -e "s/^address = \"off\"/address = \"127.0.0.1:$http_port\"/"
  cat <<CONFIG
[[user]]
name = "trusted"
senders = ["*@app.test"]
life = "60s"
[[smart_host]]
address = "smtp.example.test:$smart_port"
username = "relay@example.test"
password_file = "$work/password"
when = "deadline"
CONFIG
}
(umask 077; printf 'secret\n' >"$work/password")
relay_config >"$work/relay.toml"

submit() { # RECIPIENT
  swaks --server "127.0.0.1:$smtp_port" --from otp@app.test --to "$1" --header "Subject: 123456 is your code" \
    --body "$SRANDOM is the code for $1." >>"$work/swaks.log" 2>&1 || fail "swaks to submit to $1" "$(tail -n 3 "$work/swaks.log")"
}
arrived() { find "$mail" -type f -exec grep -l "^Delivered-To: $1" {} + 2>/dev/null | wc -l; }
restart() {
  stop relay || fail "exit status 0 of the relay" "$?"
  postfix_is stop
  postfix_is start
  wait_for 20 "Postfix to listen" answers "$mx_port"
  : >"$work/relay.log"
  start_relay
}

mechanisms SCRAM-SHA-256
postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"
start_relay
for mechanism in SCRAM-SHA-256 PLAIN LOGIN; do
  if [ "$mechanism" != SCRAM-SHA-256 ]; then
    # Now the time is named: there is nothing to try in between.
    postconf -c "$work/etc" -e "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:$told_port"
    mechanisms "$mechanism"
    restart
  fi
  who=$(tr '[:upper:]' '[:lower:]' <<<"$mechanism")@example.test
  submit "$who"
  expect_event 10 "greylisted" ".recipient == \"$who\" and .event == \"greylisted\""
  reply=$(jq -r .reply <<<"$seen")
  expect_event 50 "delivered" ".recipient == \"$who\" and .event == \"delivered\""
  jq -e '.destination == "smtp.example.test" and (.note | test("smart host"))' <<<"$seen" >/dev/null || fail "delivery by the smart host" "$seen"
  wait_for 10 "the mail in the inbox" test "$(arrived "$who")" = 1
  grep -q "sasl_method=$mechanism, sasl_username=relay@example.test" "$work/postfix.log" || fail "a login with $mechanism" "$(grep smart "$work/postfix.log" | tail -n 5)"
  ok "$mechanism: \"$reply\" of Postgrey, and the smart host took it $(jq -r .ms <<<"$seen") ms after it was accepted: $(jq -r .note <<<"$seen")"
done

# Once the primary has got to know the sender, mail goes straight.
postconf -c "$work/etc" -e "smtpd_recipient_restrictions ="
restart
submit direct@example.test
expect_event 20 "delivered" '.recipient == "direct@example.test" and .event == "delivered"'
jq -e '.destination == "mx.example.test" and .attempt == 1' <<<"$seen" >/dev/null || fail "direct delivery" "$seen"
ok "without Postgrey mail goes straight again"

# Where TLS begins with the connection, as at port 465.
sed -i -e "s/smtp.example.test:$smart_port/smtp.example.test:$implicit_port/" -e 's/^when = .*/when = "always"\ntls = "implicit"/' "$work/relay.toml"
: >"$work/postfix.log"
restart
for who in first@example.test second@example.test; do
  submit "$who"
  expect_event 20 "delivered" ".recipient == \"$who\" and .event == \"delivered\""
  jq -e '.destination == "smtp.example.test" and .attempt == 1 and (.note | test("^TLSv1.3 .*, verified by name; smart host"))' <<<"$seen" >/dev/null || fail "delivery over implicit TLS" "$seen"
done
grep -q "postfix/smtps/smtpd.*sasl_username=relay@example.test" "$work/postfix.log" || fail "a login at the port with implicit TLS" "$(tail -n 5 "$work/postfix.log")"
connections=$(grep -c "postfix/smtps/smtpd.*: connect from" "$work/postfix.log")
ok "implicit TLS: two messages, $connections connection(s) to a Postfix in wrapper mode: $(jq -r .note <<<"$seen")"
relay_config >"$work/relay.toml"

# A wrong password: loud, and not the recipient's fault.
printf 'wrong\n' >"$work/password"
sed -i 's/^when = .*/when = "always"/' "$work/relay.toml"
restart
submit wrong@example.test
expect_event 20 "deferred" '.recipient == "wrong@example.test" and .event == "deferred"'
jq -e '.reply | startswith("535")' <<<"$seen" >/dev/null || fail "535" "$seen"
expect_event 20 "delivered" '.recipient == "wrong@example.test" and .event == "delivered"'
jq -e '.destination == "mx.example.test"' <<<"$seen" >/dev/null || fail "direct delivery" "$seen"
grep -q "the smart host cannot be used" "$work/relay.log" || fail "an error in the log" "none"
says "smart_host_breaker{smart_host=\"smtp.example.test:$smart_port\"} 2" curl -s "http://127.0.0.1:$http_port/metrics" || fail "an open breaker in the metrics" "none"
ok "a wrong password: 535, an error in the log, an open breaker; the mail went straight"

# A certificate that nobody vouches for: no password.
printf 'secret\n' >"$work/password"
sed -i '/^ca_file/d' "$work/relay.toml"
: >"$work/postfix.log"
restart
submit unverified@example.test
expect_event 20 "delivered" '.recipient == "unverified@example.test" and .event == "delivered"'
jq -e '.destination == "mx.example.test"' <<<"$seen" >/dev/null || fail "direct delivery" "$seen"
grep -q "sasl_method" "$work/postfix.log" && fail "no login" "$(grep sasl_method "$work/postfix.log")"
grep -Eq 'smart.*(AUTH|auth=)' "$work/postfix.log" && fail "no AUTH command" "$(grep -E 'auth' "$work/postfix.log")"
ok "a certificate that nobody vouches for: no password was sent; the mail went straight"
grep -q secret "$work/relay.log" && fail "no password in the log" "one"
stop relay || fail "exit status 0 of the relay" "$?"
