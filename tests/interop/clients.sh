#!/usr/bin/env bash
# Mail programs and libraries that apps use submit to the relay; each message arrives at the right recipients with the
# right subject, and a wrong password is refused with 535.
#   usage: clients.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need swaks libnet-ssleay-perl curl msmtp perl libio-socket-ssl-perl libauthen-sasl-perl
command -v npm >/dev/null || need nodejs npm
mkdir "$work/node"
npm install --silent --no-fund --no-audit --prefix "$work/node" nodemailer >"$work/npm.log" 2>&1

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking
smtp_port=$(free_port) smtps_port=$(free_port)
{
  base_config
  printf '%s\n' '[[listener]]' "address = \"127.0.0.1:$smtps_port\"" 'tls = "implicit"'
  printf '%s\n' '[[user]]' 'name = "shop"' "password_hash = \"$(password_hash secret)\"" 'senders = ["*@app.test"]'
} >"$work/relay.toml"
start_relay
wait_for 10 "the relay to listen on port $smtps_port" answers "$smtps_port"

# arrived HOW RECIPIENT...: one message with the subject "HOW", to each recipient of example.test.
arrived() {
  local how=$1 recipient file
  shift
  for recipient in "$@"; do
    wait_for 10 "a message by $how to $recipient" found "$recipient@example.test" >/dev/null
    file=$work/sink/$(found "$recipient@example.test")
    grep -q "^Subject: $how"$'\r$' "$file" || fail "the subject \"$how\" for $recipient" "$(grep -a -m 1 ^Subject "$file")"
    grep -q "^Received: by relay.app.test .* with [A-Z0-9]*SMTP[A-Z0-9]* id " "$file" || fail "a Received field" "none"
  done
  ok "$how: arrived for $*"
}
found() { jq -r "select(.to == [\"$1\"]).file" "$work/sink/index" | grep .; }

# refused HOW PATTERN COMMAND...: the command fails, and says something like the pattern.
refused() {
  local how=$1 pattern=$2 output
  shift 2
  if output=$("$@" 2>&1); then fail "$how to fail with a wrong password" "success"; fi
  grep -qE -- "$pattern" <<<"$output" || fail "$how to say $pattern" "$(tail -n 3 <<<"$output")"
  ok "$how: a wrong password is refused with 535"
}

letter() { # SUBJECT
  printf '%s\n' "From: Shop <otp@app.test>" "To: somebody@example.test" "Subject: $1" "" "123456 is your code."
}

# swaks
swaks_sends() { # HOW PASSWORD RECIPIENT [OPTION...]
  swaks --server 127.0.0.1 --auth-user shop --auth-password "$2" --from otp@app.test --to "$3@example.test" \
    --header "Subject: $1" "${@:4}"
}
swaks_sends "swaks, PLAIN" secret swaks1 --port "$smtp_port" --auth PLAIN >>"$work/swaks.log"
arrived "swaks, PLAIN" swaks1
swaks_sends "swaks, LOGIN, STARTTLS" secret swaks2 --port "$smtp_port" --auth LOGIN --tls >>"$work/swaks.log"
arrived "swaks, LOGIN, STARTTLS" swaks2
swaks_sends "swaks, PLAIN, implicit TLS" secret swaks3 --port "$smtps_port" --auth PLAIN --tls-on-connect >>"$work/swaks.log"
arrived "swaks, PLAIN, implicit TLS" swaks3
refused swaks "535 5\.7\.8" swaks_sends wrong wrong swaks0 --port "$smtp_port" --auth PLAIN --tls

# curl
letter "curl, smtp:// with STARTTLS" >"$work/curl1.txt"
letter "curl, smtps://" >"$work/curl2.txt"
curl_sends() { # URL PASSWORD RECIPIENT FILE
  curl --verbose --silent --crlf --insecure --ssl-reqd --url "$1" --user "shop:$2" --mail-from otp@app.test \
    --mail-rcpt "$3@example.test" --upload-file "$4"
}
curl_sends "smtp://127.0.0.1:$smtp_port" secret curl1 "$work/curl1.txt" 2>>"$work/curl.log"
arrived "curl, smtp:// with STARTTLS" curl1
curl_sends "smtps://127.0.0.1:$smtps_port" secret curl2 "$work/curl2.txt" 2>>"$work/curl.log"
arrived "curl, smtps://" curl2
refused curl "^< 535 5\.7\.8" curl_sends "smtp://127.0.0.1:$smtp_port" wrong curl0 "$work/curl1.txt"

# msmtp
msmtp_sends() { # HOW MECHANISM PASSWORD RECIPIENT [OPTION...]
  letter "$1" | msmtp --file=/dev/null --host=127.0.0.1 --tls=on --tls-certcheck=off --auth="$2" \
    --user=shop --passwordeval="echo $3" --from=otp@app.test "${@:5}" "$4@example.test"
}
msmtp_sends "msmtp, PLAIN, STARTTLS" plain secret msmtp1 --port="$smtp_port"
arrived "msmtp, PLAIN, STARTTLS" msmtp1
msmtp_sends "msmtp, LOGIN, implicit TLS" login secret msmtp2 --port="$smtps_port" --tls-starttls=off
arrived "msmtp, LOGIN, implicit TLS" msmtp2
refused "msmtp, PLAIN" "535" msmtp_sends wrong plain wrong msmtp0 --port="$smtp_port"
if msmtp --version | grep -q 'scram-sha-256'; then
  msmtp_sends "msmtp, SCRAM-SHA-256" scram-sha-256 secret msmtp3 --port="$smtp_port"
  arrived "msmtp, SCRAM-SHA-256" msmtp3
  refused "msmtp, SCRAM-SHA-256" "535" msmtp_sends wrong scram-sha-256 wrong msmtp0 --port="$smtp_port"
else
  echo "left out: this msmtp has no SCRAM-SHA-256"
fi

# Python
letter "Python smtplib, three recipients" >"$work/python1.txt"
letter "Python smtplib, SMTPUTF8" >"$work/python2.txt"
smtplib_sends() { "$python" "$here/send_smtplib.py" "$smtp_port" shop "$1" "$2" otp@app.test "${@:3}"; }
smtplib_sends secret "$work/python1.txt" {python1,python2,python3}@example.test
arrived "Python smtplib, three recipients" python1 python2 python3
smtplib_sends secret "$work/python2.txt" größe@example.test
arrived "Python smtplib, SMTPUTF8" größe
refused "Python smtplib" "^535 5\.7\.8" smtplib_sends wrong "$work/python1.txt" python0@example.test

# Node
cat >"$work/node/send.cjs" <<'SCRIPT'
const [port, secure, pool, pass, ...recipients] = process.argv.slice(2);
const transport = require('nodemailer').createTransport({
  host: '127.0.0.1', port: +port, secure: secure === 'yes', requireTLS: secure !== 'yes', pool: pool === 'yes', maxConnections: 2,
  auth: { user: 'shop', pass }, tls: { rejectUnauthorized: false },
});
const how = `nodemailer, ${secure === 'yes' ? 'implicit TLS' : 'STARTTLS'}${pool === 'yes' ? ', pooled' : ''}`;
const send = (to) => transport.sendMail({ from: 'Shop <otp@app.test>', to: `${to}@example.test`, subject: how, text: '123456 is your code.' });
Promise.all(recipients.map(send)).then(() => transport.close(), (error) => { console.error(error.message); process.exit(1); });
SCRIPT
node_sends() { node "$work/node/send.cjs" "$@"; }
node_sends "$smtp_port" no no secret node1
arrived "nodemailer, STARTTLS" node1
node_sends "$smtps_port" yes no secret node2
arrived "nodemailer, implicit TLS" node2
node_sends "$smtp_port" no yes secret pool{1..8}
arrived "nodemailer, STARTTLS, pooled" pool{1..8}
refused nodemailer "535 5\.7\.8" node_sends "$smtp_port" no no wrong node0

# Perl
cat >"$work/send.pl" <<'SCRIPT'
use strict; use warnings; use Net::SMTP;
my ($port, $secure, $password, $how, @recipients) = @ARGV;
my $smtp = Net::SMTP->new('127.0.0.1', Port => $port, SSL => $secure eq 'yes', SSL_verify_mode => 0) or die "no connection: $@";
$secure eq 'yes' or $smtp->starttls(SSL_verify_mode => 0) or die 'STARTTLS: ', $smtp->message;
$smtp->auth('shop', $password) or die 'AUTH: ', $smtp->code, ' ', $smtp->message;
$smtp->mail('otp@app.test') && $smtp->to(@recipients) && $smtp->data or die $smtp->message;
$smtp->datasend("From: otp\@app.test\nSubject: $how\n\n.123456 is your code.\n") && $smtp->dataend or die $smtp->message;
$smtp->quit;
SCRIPT
perl_sends() { perl "$work/send.pl" "$@"; }
perl_sends "$smtp_port" no secret "Net::SMTP, STARTTLS" perl{1,2}@example.test
arrived "Net::SMTP, STARTTLS" perl1 perl2
perl_sends "$smtps_port" yes secret "Net::SMTP, implicit TLS" perl3@example.test
arrived "Net::SMTP, implicit TLS" perl3
refused Net::SMTP "AUTH: 535" perl_sends "$smtp_port" no wrong wrong perl0@example.test

count=$(wc -l <"$work/sink/index")
[ "$count" = 25 ] || fail "25 messages in all, each for one recipient" "$count"
ok "nothing arrived beyond these $count"
stop relay || fail "exit status 0 of the relay" "$?"
