#!/usr/bin/env bash
# SpamAssassin and rspamd read the relay's own mail in all of its languages, as a mail host gets it: signed, with SPF, DMARC and the
# relay's name in DNS. Neither scores any of it above 0. Lists in DNS are not asked: they judge addresses, not mails.
#   usage: spam-score.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need curl rspamd spamassassin libmail-dkim-perl libmail-spf-perl

make_keys app.test
relay_ip=44.1.1.1
start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1" "app.test A $relay_ip" "app.test MX 10 relay.app.test" \
  "relay.app.test A $relay_ip" "app.test TXT v=spf1 ip4:$relay_ip -all" "_dmarc.app.test TXT v=DMARC1; p=reject" "$dkim_table"
start_sink mx
smtp_port=$(free_port) http_port=$(free_port)
"$relay" user hash --token >"$work/hash" 2>"$work/token"
token=$(grep -o '[^ ]*$' "$work/token" | tail -n 1)
{
  base_config | with_api "$http_port"
  printf '%s\n' '[[user]]' 'name = "shop"' 'senders = ["*@app.test"]' "token_hash = \"$(tail -n 1 "$work/hash")\"" "$dkim_config"
} >"$work/relay.toml"
chmod 600 "$work/relay.toml"
start_relay

languages=(en de fr es pt it nl pl ja ar)
for language in "${languages[@]}"; do
  jq -n --arg language "$language" '{from: "Example Shop <otp@app.test>", to: "alice@example.test", wait: "delivered",
    otp: {code: "481516", app: "Example Shop", locale: $language}}' >"$work/request"
  status=$(curl -s -o "$work/answer" -w '%{http_code}' -H "Authorization: Bearer $token" "http://127.0.0.1:$http_port/v1/messages" -d "@$work/request")
  [ "$status" = 200 ] || fail "status 200 for $language" "$status $(cat "$work/answer")"
  file=$(tail -n 1 "$work/mx/index" | jq -r .file)
  # What the receiving host adds.
  {
    printf 'Return-Path: <otp@app.test>\r\n'
    printf 'Received: from relay.app.test (relay.app.test [%s])\r\n\tby mx.example.test (Postfix) with ESMTPS id 4Xyz\r\n\tfor <alice@example.test>; %s\r\n' "$relay_ip" "$(LC_ALL=C date -R)"
    cat "$work/mx/$file"
  } >"$work/$language.eml"
  LC_ALL=C grep -q '[^ -~[:cntrl:]]' "$work/mx/$file" && fail "7-bit mail" "octets above 127 in $language"
done
ok "${#languages[@]} languages arrived, 7-bit"

mkdir -p "$work/sa"
cat >"$work/sa/local.cf" <<CONFIG
dns_server 127.0.0.1:$dns_port
skip_rbl_checks 1
use_bayes 0
use_pyzor 0
use_razor2 0
score URIBL_BLOCKED 0
internal_networks 127.0.0.1
trusted_networks 127.0.0.1
CONFIG
HOME=$work spamassassin --lint --siteconfigpath="$work/sa" >"$work/lint.log" 2>&1 || true
printf '%s\n' "loadplugin Mail::SpamAssassin::Plugin::SPF" "loadplugin Mail::SpamAssassin::Plugin::DKIM" >"$work/sa/init.pre"
cp /etc/spamassassin/v*.pre "$work/sa/"
for language in "${languages[@]}"; do
  HOME=$work spamassassin --siteconfigpath="$work/sa" --test-mode <"$work/$language.eml" >"$work/$language.sa" 2>"$work/sa.log"
  score=$(sed -n 's/^X-Spam-Status: .*score=\([-0-9.]*\).*/\1/p' "$work/$language.sa" | head -n 1)
  awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 0) }' ||
    fail "SpamAssassin to score $language at 0 or below" "$score: $(sed -n '/^Content analysis details/,/^$/p' "$work/$language.sa")"
  grep -q DKIM_VALID "$work/$language.sa" || fail "SpamAssassin to believe the signature of $language" "$(sed -n '/^X-Spam-Status/,/^[^ \t]/p' "$work/$language.sa")"
  sa="${sa:-} $language $score"
done
ok "SpamAssassin:$sa"

rspamd=$work/rspamd normal_port=$(free_port)
mkdir -p "$rspamd/local.d" "$rspamd"/{db,run,log}
printf '%s\n' "bind_socket = \"127.0.0.1:$normal_port\";" >"$rspamd/local.d/worker-normal.inc"
for worker in controller proxy fuzzy; do echo "enabled = false;" >"$rspamd/local.d/worker-$worker.inc"; done
printf '%s\n' 'local_addrs = [];' "dns { nameserver = [\"127.0.0.1:$dns_port\"]; timeout = 2s; retransmits = 2; }" >"$rspamd/local.d/options.inc"
echo "enabled = false;" | tee "$rspamd/local.d"/{rbl,fuzzy_check,surbl,arc,asn,neural,mx_check,greylist,history_redis,ratelimit}.conf >/dev/null
chown -R _rspamd "$rspamd"
chmod 755 "$rspamd"
start rspamd rspamd -f -u _rspamd -g _rspamd -c /etc/rspamd/rspamd.conf --var="LOCAL_CONFDIR=$rspamd" --var="DBDIR=$rspamd/db" \
  --var="RUNDIR=$rspamd/run" --var="LOGDIR=$rspamd/log"
# It compiles its patterns first.
wait_for 150 "rspamd to listen" answers "$normal_port"
for language in "${languages[@]}"; do
  rspamc --connect "127.0.0.1:$normal_port" --ip "$relay_ip" --helo relay.app.test --hostname relay.app.test --from otp@app.test \
    --rcpt alice@example.test symbols <"$work/$language.eml" >"$work/$language.rspamd" 2>&1 || fail "rspamd to answer" "$(tail -n 3 "$work/$language.rspamd")"
  score=$(sed -n 's/^Score: \([-0-9.]*\) .*/\1/p' "$work/$language.rspamd")
  awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 0) }' ||
    fail "rspamd to score $language at 0 or below" "$score: $(grep '^Symbol' "$work/$language.rspamd" | tr '\n' ';')"
  grep -q 'R_DKIM_ALLOW' "$work/$language.rspamd" || fail "rspamd to believe the signature of $language" "$(grep '^Symbol' "$work/$language.rspamd" | tr '\n' ';')"
  rs="${rs:-} $language $score"
done
ok "rspamd:$rs"
stop relay || fail "exit status 0 of the relay" "$?"
