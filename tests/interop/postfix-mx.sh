#!/usr/bin/env bash
# Postfix as the recipient's mail host: with and without CHUNKING, with TLS, with 4xx, Postgrey and 5xx. What arrives is
# what was sent, and its signatures hold for OpenDKIM and dkimpy.
# Whatever a client calls itself, the Received field that tells of it is good.
#   usage: postfix-mx.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"

need opendkim swaks libnet-ssleay-perl
venv wheel dkimpy pynacl

make_keys app.test
start_dns "$dkim_table" "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
smtp_port=$(free_port) mx_port=$(free_port) greylist_port=$(free_port) busy_port=$(free_port)
mail=$work/mail/inbox

mkdir -p "$work/etc"
cat >"$work/etc/recipients" <<RECIPIENTS
unknown@example.test 550 5.1.1 No such user
greylisted@example.test greylist
busy@example.test busy
RECIPIENTS
make_postfix example.test
postconf -c "$work/etc" -e "smtpd_recipient_restrictions = check_recipient_access texthash:$work/etc/recipients" \
  "smtpd_restriction_classes = greylist, busy" "greylist = check_policy_service inet:127.0.0.1:$greylist_port" \
  "busy = check_policy_service inet:127.0.0.1:$busy_port"

password=$(password_hash secret)
{ base_config; printf '%s\n' '[[user]]' 'name = "shop"' "password_hash = \"$password\"" 'senders = ["*@app.test"]' "$dkim_config"; } >"$work/relay.toml"
sed 's/ TXT / /' "$work/dns.table" | grep _domainkey >"$work/opendkim.keys"
printf '%s\n' "TestPublicKeys $work/opendkim.keys" "Mode v" "Syslog no" >"$work/opendkim.conf"

# letter NAME TEXT: a message in $work/NAME.txt, with LF for line ends.
letter() {
  local field
  printf '%s\n' "From: \"Example Shop\" <otp@app.test>" "To: $1@example.test" "Subject: 123456 is your code" \
    "Date: Sat, 21 Nov 2026 10:00:00 +0000" "Message-ID: <$1@app.test>" "MIME-Version: 1.0" \
    "Content-Type: text/plain; charset=utf-8" "Content-Transfer-Encoding: 8bit" "" "$2" >"$work/$1.txt"
}
letter plain $'123456 is your code.\n\nIt holds for ten minutes.  \n\n\n'
letter dots $'.\n..\n.a\n\n. \n.\nend'
letter eight-bit $'Ihr Schlüssel für größere Übungen: 123456 🔑'
letter long "$(printf 'x%.0s' {1..998})"
letter größe $'Привет: 123456'

# swaks_sends RECIPIENT FILE: swaks puts a line end of its own behind the file's.
swaks_sends() {
  head -c -1 "$2" | swaks --server "127.0.0.1:$smtp_port" --tls --auth PLAIN --auth-user shop --auth-password secret \
    --from otp@app.test --to "$1" --data - >"$work/swaks.log" 2>&1 || fail "swaks to submit to $1" "$(tail -n 3 "$work/swaks.log")"
}

# opendkim_believes NAME FILE: both signatures.
opendkim_believes() {
  local verdict algorithm
  verdict=$(opendkim -x "$work/opendkim.conf" -t "$2" -vv 2>&1 | tr -d '\n')
  for algorithm in rsa-sha256 ed25519-sha256; do
    [[ $verdict =~ dkim=pass[^\;]*header.a=$algorithm ]] || fail "OpenDKIM to believe the $algorithm signature of $1" "$verdict"
  done
}

check_mail() { # LEG NAME
  "$python" "$here/postfix-mail.py" "$mail" "$2@example.test" "$work/$2.txt" "$work/dns.table" "$work/$1-$2.eml" || exit 1
  opendkim_believes "$2" "$work/$1-$2.eml"
}

# leg NAME VERB SETTING...: five messages through a Postfix with these settings; they arrive by VERB.
leg() {
  local leg=$1 verb=$2 letter
  shift 2
  rm -rf "$mail" "$work/data"
  : >"$work/relay.log"
  : >"$work/postfix.log"
  postconf -c "$work/etc" -e smtpd_tls_security_level=none smtpd_discard_ehlo_keywords=
  [ $# = 0 ] || postconf -c "$work/etc" -e "$@"
  postfix_is start
  wait_for 20 "Postfix to listen" answers "$mx_port"
  start_relay
  for letter in plain dots eight-bit long; do swaks_sends "$letter@example.test" "$work/$letter.txt"; done
  /usr/bin/python3 "$here/send_smtplib.py" "$smtp_port" shop secret "$work/größe.txt" otp@app.test größe@example.test
  for letter in plain dots eight-bit long größe; do
    expect_event 20 "delivered to $letter" ".event == \"delivered\" and .recipient == \"$letter@example.test\""
    check_mail "$leg" "$letter"
  done
  ok "$leg: 5 messages (plain, dots, 8-bit, 998 bytes, UTF-8 address) arrived in Postfix as they were sent"
  ok "$leg: all signatures hold for OpenDKIM $(opendkim -V 2>&1 | sed -n 's/.*Filter v//p') and dkimpy, RSA and Ed25519"
}

end_leg() {
  stop relay || fail "exit status 0 of the relay" "$?"
  wait_for 5 "Postfix to note how its client left" grep -q "disconnect from" "$work/postfix.log"
  postfix_is stop
}

# Postfix counts the commands of each session when it ends.
sessions() { sed -n 's/.*disconnect from [^ ]* //p' "$work/postfix.log"; }

leg chunking BDAT
end_leg
sessions | grep -q 'bdat=[1-9]' && ! sessions | grep -q ' data=' || fail "only BDAT in Postfix's log" "$(sessions)"
ok "chunking: Postfix saw BDAT: $(sessions | tr '\n' ' ')"

leg no-chunking DATA smtpd_discard_ehlo_keywords=chunking
end_leg
sessions | grep -q ' data=[1-9]' && ! sessions | grep -q 'bdat=' || fail "only DATA in Postfix's log" "$(sessions)"
ok "no-chunking: Postfix saw DATA: $(sessions | tr '\n' ' ')"

leg tls BDAT smtpd_tls_security_level=encrypt
expect_event 1 "a delivery under TLS" '.event == "delivered" and (.note // "" | startswith("TLSv1.3"))'
ok "tls: a self-signed certificate does not hinder: $(jq -r .note <<<"$seen")"

# Refusals, with the same Postfix.
start_postgrey postgrey "$greylist_port" 1
start_postgrey busy "$busy_port" 1 --greylist-action=451 --greylist-text="4.3.2 come back later"
for recipient in greylisted busy unknown; do swaks_sends "$recipient@example.test" "$work/plain.txt"; done

of() { echo ".recipient == \"$1@example.test\" and .event == \"$2\""; }
expect_event 10 "greylisted" "$(of greylisted greylisted) and .cause == \"greylisted\" and (.reply | startswith(\"450 4.2.0\"))"
ok "postgrey: $(jq -r '"\(.event), again at \(.next_attempt_at), \(.reply)"' <<<"$seen")"
expect_event 30 "delivered at the second attempt" "$(of greylisted delivered) and .attempt == 2"
ok "postgrey: delivered at attempt 2 after $(jq .ms <<<"$seen") ms"

expect_event 10 "deferred" "$(of busy deferred) and .cause == \"server_busy\" and (.reply | startswith(\"451 4.3.2\")) and .next_attempt_at != null"
expect_event 30 "delivered at the second attempt" "$(of busy delivered) and .attempt == 2"
ok "451: deferred, then delivered at attempt 2 after $(jq .ms <<<"$seen") ms"

expect_event 10 "failed" "$(of unknown failed) and .cause == \"bad_mailbox\" and .attempt == 1 and .next_attempt_at == null"
event "$(of unknown deferred)" && fail "no second attempt after a 5xx" "a deferral"
ok "550: failed at once: $(jq -r '"\(.cause), \(.reply)"' <<<"$seen")"
end_leg
sessions | grep -q 'starttls=1' || fail "STARTTLS in Postfix's log" "$(sessions)"
ok "tls: Postfix saw STARTTLS: $(sessions | tr '\n' ' ')"

# What clients call themselves, told in Received: Postfix takes the field, and it is one.
printf '%s\n' '[submission]' 'received_client = true' >>"$work/relay.toml"
rm -rf "$mail" "$work/data"
: >"$work/relay.log"
: >"$work/postfix.log"
postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"
start_relay
# called NAME RECIPIENT SHOWN
called() {
  swaks --server "127.0.0.1:$smtp_port" --ehlo "$1" --tls --auth PLAIN --auth-user shop --auth-password secret --from otp@app.test \
    --to "$2@example.test" --data "$work/plain.txt" >"$work/swaks.log" 2>&1 || fail "EHLO $1 to be taken" "$(tail -n 3 "$work/swaks.log")"
  expect_event 20 "delivered to $2" ".event == \"delivered\" and .recipient == \"$2@example.test\""
  received=$("$python" - "$mail" "$2@example.test" <<'SCRIPT'
import email, email.policy, pathlib, sys
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    if file.is_file() and f"Delivered-To: {sys.argv[2]}" in (text := file.read_text()):
        fields = email.message_from_string(text, policy=email.policy.default).get_all("Received")
        assert len(fields) == 2, fields
        print(" ".join(fields[1].split()))
SCRIPT
)
  [[ $received == "from $3 by relay.app.test (otp-relay) with ESMTPSA id "* ]] || fail "Received: from $3" "$received"
}
called "Bob's-MacBook.local" name1 "[127.0.0.1] (helo=Bob's-MacBook.local)"
called "[IPv6:fe80::1%en0]" name2 "[127.0.0.1] (helo=[IPv6:fe80::1%en0])"
called "a) by bank.test (b" name3 "[127.0.0.1] (helo=a??by?bank.test??b)"
called "laptop_1.example" name4 "laptop_1.example ([127.0.0.1])"
ok "names in EHLO: Postfix took Received with four of them, each in its place: $received"
end_leg
