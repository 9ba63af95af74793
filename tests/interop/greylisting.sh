#!/usr/bin/env bash
# Real greylisting: Postgrey that names the time, Postgrey that does not, and rspamd. A first contact passes soon after the
# window opens; a second one, to a destination that is known by then, at once after it.
#   usage: greylisting.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/postfix.sh"
need swaks rspamd redis-server

# Each domain has a set of mail hosts of its own, and so its own memory; one Postfix is behind all of them.
start_dns "told.test MX 10 mx-told.test" "mx-told.test A 127.0.0.1" "silent.test MX 10 mx-silent.test" \
  "mx-silent.test A 127.0.0.1" "rspamd.test MX 10 mx-rspamd.test" "mx-rspamd.test A 127.0.0.1"
smtp_port=$(free_port) mx_port=$(free_port) told_port=$(free_port) silent_port=$(free_port)
# One that is in use; most wait 300 s, which would take too long here.
delay=30

start_postgrey told "$told_port" "$delay" --greylist-text="Greylisted for %s seconds"
start_postgrey silent "$silent_port" "$delay"
mkdir -p "$work/etc"
printf '%s\n' "told.test told" "silent.test silent" >"$work/etc/domains"
make_postfix told.test silent.test rspamd.test
postconf -c "$work/etc" -e "smtpd_recipient_restrictions = check_recipient_access texthash:$work/etc/domains" \
  "smtpd_restriction_classes = told, silent" "told = check_policy_service inet:127.0.0.1:$told_port" \
  "silent = check_policy_service inet:127.0.0.1:$silent_port"
{ base_config; printf '%s\n' '[[user]]' 'name = "trusted"' 'senders = ["*@app.test"]'; } >"$work/relay.toml"
sed -i "s/^address = \"127.0.0.1:$smtp_port\"/&\nauth = \"trusted\"\ntrusted_networks = [\"127.0.0.0\/8\"]/" "$work/relay.toml"

submit() { # RECIPIENT
  swaks --server "127.0.0.1:$smtp_port" --from otp@app.test --to "$1" --header "Subject: 123456 is your code" \
    --body "$SRANDOM is the code for $1." >>"$work/swaks.log" 2>&1 || fail "swaks to submit to $1" "$(tail -n 3 "$work/swaks.log")"
}

# lost RECIPIENT: waits for the delivery; sets `lost`, the milliseconds between the opening of the window and it.
lost() {
  local refused delivered
  expect_event 10 "a first refusal for $1" ".recipient == \"$1\" and (.event == \"greylisted\" or .event == \"deferred\")"
  refused=$(milliseconds)
  reply=$(jq -r .reply <<<"$seen")
  expect_event $((delay + 40)) "delivered to $1" ".recipient == \"$1\" and .event == \"delivered\""
  delivered=$(milliseconds)
  attempts=$(jq .attempt <<<"$seen")
  lost=$((delivered - refused - delay * 1000))
}
milliseconds() { date -d "$(jq -r .time <<<"$seen")" +%s%3N; }

# first_and_second NAME DOMAIN MOST: MOST milliseconds may be lost at the first contact; at the second, 2000.
first_and_second() {
  submit "alice@$2"
  lost "alice@$2"
  [ "$lost" -le "$3" ] || fail "$1: at most $3 ms lost beyond the window at a first contact" "$lost ms"
  ok "$1: first contact, \"$reply\": delivered $lost ms after the window opened, attempt $attempts"
  submit "bob@$2"
  lost "bob@$2"
  [ "$lost" -le 2000 ] || fail "$1: at most 2000 ms lost beyond the window at a second contact" "$lost ms"
  ok "$1: second contact: delivered $lost ms after the window opened, attempt $attempts"
}

postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"
start_relay
first_and_second "Postgrey that names the time" told.test 2000
first_and_second "Postgrey that names no time" silent.test 10000
stop relay || fail "exit status 0 of the relay" "$?"
postfix_is stop

# rspamd as a milter, with its memory in Redis.
redis_port=$(free_port) milter_port=$(free_port) normal_port=$(free_port) controller_port=$(free_port)
start redis redis-server --port "$redis_port" --bind 127.0.0.1 --save "" --dir "$work"
wait_for 10 "Redis to listen" answers "$redis_port"
rspamd=$work/rspamd
mkdir -p "$rspamd/local.d" "$rspamd"/{db,run,log}
echo "servers = \"127.0.0.1:$redis_port\";" >"$rspamd/local.d/redis.conf"
printf '%s\n' "timeout = ${delay}s;" "report_time = false;" "check_local = true;" "greylist_min_score = -100;" >"$rspamd/local.d/greylist.conf"
printf '%s\n' "reject = 1000;" "add_header = 900;" "greylist = -50;" >"$rspamd/local.d/actions.conf"
echo "bind_socket = \"127.0.0.1:$normal_port\";" >"$rspamd/local.d/worker-normal.inc"
echo "bind_socket = \"127.0.0.1:$controller_port\";" >"$rspamd/local.d/worker-controller.inc"
printf '%s\n' "bind_socket = \"127.0.0.1:$milter_port\";" "milter = yes;" "timeout = 20s;" \
  "upstream \"local\" { default = yes; hosts = \"127.0.0.1:$normal_port\"; }" >"$rspamd/local.d/worker-proxy.inc"
echo 'local_addrs = [];' >"$rspamd/local.d/options.inc"
echo "enabled = false;" | tee "$rspamd/local.d"/{rbl,fuzzy_check,surbl,dkim,spf,dmarc,arc,asn,neural,phishing,mx_check}.conf >/dev/null
chown -R _rspamd "$rspamd"
start rspamd rspamd -f -u _rspamd -g _rspamd -c /etc/rspamd/rspamd.conf --var="LOCAL_CONFDIR=$rspamd" --var="DBDIR=$rspamd/db" \
  --var="RUNDIR=$rspamd/run" --var="LOGDIR=$rspamd/log"
# It compiles its patterns first.
wait_for 150 "rspamd to listen" answers "$milter_port"
postconf -c "$work/etc" -e "smtpd_milters = inet:127.0.0.1:$milter_port" "milter_default_action = tempfail" \
  "smtpd_recipient_restrictions ="
postfix_is start
wait_for 20 "Postfix to listen" answers "$mx_port"
start_relay
first_and_second rspamd rspamd.test 10000
stop relay || fail "exit status 0 of the relay" "$?"
