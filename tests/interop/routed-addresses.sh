#!/usr/bin/env bash
# Addresses that route, typed in by somebody who wants a domain refused: Postfix denies to relay them, and a code to another
# address of that domain arrives all the same. First as the relay is by default, then with routed_addresses = true.
#   usage: routed-addresses.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"

start_dns "victim.test MX 10 mx.victim.test" "mx.victim.test A 127.0.0.1" "app.test MX 10 mx.victim.test"
smtp_port=$(free_port) mx_port=$(free_port)
listener_options=$'auth = "trusted"\ntrusted_networks = ["127.0.0.0/8"]\n[[user]]\nname = "trusted"\nsenders = ["*@app.test"]'
make_postfix victim.test app.test
postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"

# submit ADDRESS...: one code to each; prints the address and the reply to RCPT, or to the content.
submit() {
  "$python" - "$smtp_port" "$@" <<'PYTHON'
import smtplib, sys

for address in sys.argv[2:]:
    with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as smtp:
        smtp.ehlo("client.test")
        smtp.docmd("MAIL FROM:<otp@app.test>")
        code, text = smtp.docmd(f"RCPT TO:<{address}>")
        if code == 250:
            code, text = smtp.data(b"From: otp@app.test\r\nSubject: 123456 is your code\r\n\r\n123456\r\n")
        print(address, code, text.decode().split("\n")[0])
PYTHON
}

# leg NAME: the routed addresses, each followed by a code to somebody else at the domain.
leg() {
  local routed reply honest refused=0 number=0
  rm -rf "$work/data"
  : >"$work/relay.log"
  : >"$work/replies"
  start_relay
  for routed in 'a%x@victim.test' '"a@x"@victim.test' 'x!a@victim.test'; do
    reply=$(submit "$routed")
    echo "$reply" >>"$work/replies"
    if [[ $reply == *" 250 "* ]]; then
      expect_event 20 "the end of $routed" ".event == \"failed\" and .recipient == $(jq -n --arg a "$routed" '$a')"
      jq -r .reply <<<"$seen" >>"$work/replies"
    fi
    number=$((number + 1))
    honest="honest$number@victim.test"
    reply=$(submit "$honest")
    echo "$reply" >>"$work/replies"
    [[ $reply == *" 250 "* ]] || refused=$((refused + 1))
  done
  sed 's/^/  /' "$work/replies"
  [ "$refused" = 0 ] || fail "$1: codes to others at victim.test" "$refused of $number refused: $reply"
  for number in 1 2 3; do
    expect_event 20 "delivered to honest$number" ".event == \"delivered\" and .recipient == \"honest$number@victim.test\""
  done
  ok "$1: 3 codes to others at victim.test are taken and arrive in Postfix"
  stop relay || fail "exit status 0 of the relay" "$?"
}

base_config >"$work/relay.toml"
leg "by default"
[ "$(grep -c ' 501 5\.1\.3 ' "$work/replies")" = 3 ] || fail "501 5.1.3 to routed addresses" "$(cat "$work/replies")"
grep -q "Relay access denied" "$work/postfix.log" && fail "nothing routed to reach Postfix" "$(grep "Relay access denied" "$work/postfix.log")"
ok "by default: routed addresses are 501 5.1.3, and Postfix sees none of them"

base_config | sed 's/^\[resolver\]/[submission]\nrouted_addresses = true\n&/' >"$work/relay.toml"
leg "with routed_addresses"
[ "$(grep -c "Relay access denied" "$work/replies")" = 3 ] || fail "Postfix to deny all three" "$(cat "$work/replies")"
ok "with routed_addresses: Postfix denies all three, each by itself: $(grep -m 1 "Relay access denied" "$work/replies")"
