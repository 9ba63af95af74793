#!/usr/bin/env bash
# Mail hosts that are slow, sloppy or old (sloppy_hosts.py): the relay and a Postfix deliver to each at the same time. A table
# says when, and in how many copies. Fails where the relay is later by more than half a second at the median, or has more
# copies.
#   usage: sloppy-hosts.sh path/to/otp-relay [ROUNDS [WAIT [KIND...]]]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"
rounds=${2:-3} wait=${3:-75}

host_port=$(free_port) smtp_port=$(free_port) postfix_port=$(free_port)
mx_port=$postfix_port
make_postfix unused.test
chmod 644 "$work/etc/mx.key"
"$python" "$here/sloppy_hosts.py" list "$host_port" >"$work/kinds"

# The relay finds them in DNS, Postfix in a table.
table=() number=0
: >"$work/etc/transport"
while read -r domain addresses _; do
  preference=0 nexthops=
  [ "$domain" != no-edns.test ] || table+=("$domain EDNS formerr")
  for address in ${addresses//,/ }; do
    preference=$((preference + 10)) number=$((number + 1))
    table+=("$domain MX $preference mx$number.sloppy.test" "mx$number.sloppy.test A $address")
    nexthops+="${nexthops:+, }[$address]:$host_port"
  done
  echo "$domain smtp:$nexthops" >>"$work/etc/transport"
done <"$work/kinds"
start_dns "${table[@]}"

postconf -c "$work/etc" -e "mynetworks = 127.0.0.0/8" "smtpd_relay_restrictions = permit_mynetworks, reject" \
  "transport_maps = texthash:$work/etc/transport" "smtp_tls_security_level = may" "virtual_mailbox_domains =" \
  "myhostname = postfix.app.test" "append_dot_mydomain = no" "default_process_limit = 200"
postfix_is start
wait_for 20 "Postfix to listen" answers "$postfix_port"

start hosts "$python" "$here/sloppy_hosts.py" serve "$host_port" "$work/index" "$work/etc/mx.pem" "$work/etc/mx.key"
wait_for 10 "the hosts to listen" grep -qs '^[0-9]*$' "$work/hosts.log"

mx_port=$host_port
base_config | sed "s/^address = \"127.0.0.1:$smtp_port\"/&\nauth = \"trusted\"\ntrusted_networks = [\"127.0.0.0\/8\"]/" >"$work/relay.toml"
printf '%s\n' '[[user]]' 'name = "trusted"' 'senders = ["*@app.test"]' >>"$work/relay.toml"
start_relay

"$python" "$here/sloppy-trial.py" "$smtp_port" "$postfix_port" "$work/index" "$rounds" "$wait" "${@:4}" ||
  fail "the relay where Postfix is, and as soon" "a host where it is not"
ok "the relay is where Postfix is, not later and not more often: $(wc -l <"$work/kinds") kinds of hosts, $rounds rounds"
grep -q "panicked" "$work/relay.log" && fail "no panic" "$(grep panicked "$work/relay.log" | head -n 3)"
stop relay || fail "exit status 0 of the relay" "$?"
