#!/usr/bin/env bash
# Mail programs and libraries that apps use submit to the relay; each message arrives at the right recipients with the
# right subject, and a wrong password is refused with 535. Then each of them verifies the relay's made-up certificate as
# docs/clients.md says; where it does not trust it, nothing is sent, and the relay tells so.
#   usage: clients.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need swaks libnet-ssleay-perl curl msmtp perl libio-socket-ssl-perl libauthen-sasl-perl openssl ruby php-cli libphp-phpmailer golang-go
command -v npm >/dev/null || need nodejs npm
mkdir "$work/node"
npm install --silent --no-fund --no-audit --prefix "$work/node" nodemailer >"$work/npm.log" 2>&1

start_dns "example.test MX 10 mx.example.test" "mx.example.test A 127.0.0.1"
start_sink sink --chunking
smtp_port=$(free_port) smtps_port=$(free_port) http_port=$(free_port)
{
  base_config | with_api "$http_port"
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
if says scram-sha-256 msmtp --version; then
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

# Verified connections. Where an app trusts the file, it sends; where it does not, the relay counts and tells it.
trusted=$work/data/self-signed.pem
openssl x509 -in "$trusted" -noout -fingerprint -sha256 | sed 's/.*=//' >"$work/fingerprint"
says "^$(cat "$work/fingerprint")$" jq -Rr 'fromjson? | objects | .sha256 // empty' "$work/relay.log" ||
  fail "the certificate's fingerprint in the log" "$(grep -m 1 certificate "$work/relay.log")"
[ "$(openssl x509 -in "$trusted" -noout -ext subjectAltName | tail -n 1 | tr -d ' ')" = \
  "DNS:localhost,IPAddress:127.0.0.1,IPAddress:0:0:0:0:0:0:0:1,DNS:host.docker.internal,DNS:relay.app.test" ] ||
  fail "the names by which apps connect" "$(openssl x509 -in "$trusted" -noout -ext subjectAltName | tail -n 1)"
ok "the log names the certificate by its fingerprint; it is for $(openssl x509 -in "$trusted" -noout -ext subjectAltName | tail -n 1 | xargs)"

verified=0
untrusted() {
  curl --silent "http://127.0.0.1:$http_port/metrics" |
    sed -n 's/^otp_relay_refused_total{.*reason="tls_untrusted"} //p' | awk '{ sum += $1 } END { print sum + 0 }'
}
one_more() { [ "$(untrusted)" = $((before + 1)) ]; }

# verifies HOW RECIPIENT WITH WITHOUT COMMAND: the command sends with the words WITH in front of it, and not with WITHOUT.
verifies() {
  local how=$1 recipient=$2 with=$3 without=$4 send=$5 before
  eval "$with $send" >>"$work/verified.log" 2>&1 || fail "$how to send where it trusts the certificate" "$(tail -n 3 "$work/verified.log")"
  arrived "$how" "$recipient"
  verified=$((verified + 1))
  before=$(untrusted)
  if eval "$without $send" >>"$work/distrust.log" 2>&1; then fail "$how not to send where it does not trust the certificate" "success"; fi
  wait_for 5 "the relay to tell that $how does not trust the certificate" one_more
  ok "$how: does not send without; the relay tells"
}

# Python
cat >"$work/verify.py" <<'SCRIPT'
import smtplib, ssl, sys
from email.message import EmailMessage

port, secure, how, recipient, *cafile = sys.argv[1:]
context = ssl.create_default_context(cafile=cafile[0] if cafile else None)
mail = EmailMessage()
mail["From"], mail["To"], mail["Subject"] = "otp@app.test", recipient, how
mail.set_content("123456 is your code.")
connect = {"context": context} if secure == "yes" else {}
with (smtplib.SMTP_SSL if secure == "yes" else smtplib.SMTP)("localhost", int(port), **connect) as smtp:
    if secure != "yes":
        smtp.starttls(context=context)
    smtp.login("shop", "secret")
    smtp.send_message(mail)
SCRIPT
verifies "smtplib, cafile" tpython1 "trust=$trusted;" "trust=;" \
  '"$python" "$work/verify.py" "$smtp_port" no "$how" "$recipient@example.test" $trust'
verifies "smtplib, SSL_CERT_FILE, implicit TLS" tpython2 "SSL_CERT_FILE=$trusted" "" \
  '"$python" "$work/verify.py" "$smtps_port" yes "$how" "$recipient@example.test"'

# Node
cat >"$work/node/verify.cjs" <<'SCRIPT'
const [port, how, to] = process.argv.slice(2);
const transport = require('nodemailer').createTransport({ host: 'localhost', port: +port, requireTLS: true, auth: { user: 'shop', pass: 'secret' } });
transport.sendMail({ from: 'otp@app.test', to, subject: how, text: '123456 is your code.' })
  .then(() => transport.close(), (error) => { console.error(error.message); process.exit(1); });
SCRIPT
verifies "nodemailer, NODE_EXTRA_CA_CERTS" tnode "NODE_EXTRA_CA_CERTS=$trusted" "" \
  'node "$work/node/verify.cjs" "$smtp_port" "$how" "$recipient@example.test"'

# Ruby
cat >"$work/verify.rb" <<'SCRIPT'
require "net/smtp"
port, how, to = ARGV
Net::SMTP.start("localhost", port.to_i, starttls: :always, user: "shop", secret: "secret", authtype: :plain) do |smtp|
  smtp.send_message("From: otp@app.test\r\nTo: #{to}\r\nSubject: #{how}\r\n\r\n123456 is your code.\r\n", "otp@app.test", to)
end
SCRIPT
verifies "Ruby Net::SMTP, SSL_CERT_FILE" truby "SSL_CERT_FILE=$trusted" "" \
  'ruby "$work/verify.rb" "$smtp_port" "$how" "$recipient@example.test"'

# PHP
cat >"$work/verify.php" <<'SCRIPT'
<?php
require '/usr/share/php/libphp-phpmailer/autoload.php';
[, $port, $how, $to] = $argv;
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
[$mail->Host, $mail->Port, $mail->SMTPAuth, $mail->SMTPSecure] = ['localhost', (int) $port, true, 'tls'];
[$mail->Username, $mail->Password] = ['shop', 'secret'];
$mail->setFrom('otp@app.test');
$mail->addAddress($to);
[$mail->Subject, $mail->Body] = [$how, '123456 is your code.'];
$mail->send();
SCRIPT
verifies "PHPMailer, openssl.cafile" tphp "trust='-d openssl.cafile=$trusted';" "trust=;" \
  'php $trust "$work/verify.php" "$smtp_port" "$how" "$recipient@example.test"'

# Go
cat >"$work/verify.go" <<'SCRIPT'
package main

import (
	"log"
	"net/smtp"
	"os"
)

func main() {
	port, how, to := os.Args[1], os.Args[2], os.Args[3]
	message := []byte("From: otp@app.test\r\nTo: " + to + "\r\nSubject: " + how + "\r\n\r\n123456 is your code.\r\n")
	auth := smtp.PlainAuth("", "shop", "secret", "localhost")
	if err := smtp.SendMail("localhost:"+port, auth, "otp@app.test", []string{to}, message); err != nil {
		log.Fatal(err)
	}
}
SCRIPT
(cd "$work" && HOME=$work GOFLAGS=-mod=mod GO111MODULE=off go build -o verify-go verify.go) >>"$work/go.log" 2>&1
verifies "Go net/smtp, SSL_CERT_FILE" tgo "SSL_CERT_FILE=$trusted" "" \
  '"$work/verify-go" "$smtp_port" "$how" "$recipient@example.test"'

# Java, where there is a compiler
if command -v javac >/dev/null; then
  need libjakarta-mail-java libjakarta-activation-java
  cat >"$work/Verify.java" <<'SCRIPT'
import jakarta.mail.*;
import jakarta.mail.internet.*;
import java.util.Properties;

public class Verify {
    public static void main(String[] given) throws Exception {
        Properties settings = new Properties();
        settings.put("mail.smtp.host", "localhost");
        settings.put("mail.smtp.port", given[0]);
        settings.put("mail.smtp.auth", "true");
        settings.put("mail.smtp.starttls.required", "true");
        settings.put("mail.smtp.ssl.checkserveridentity", "true");
        MimeMessage mail = new MimeMessage(Session.getInstance(settings));
        mail.setFrom("otp@app.test");
        mail.setRecipients(Message.RecipientType.TO, given[2]);
        mail.setSubject(given[1]);
        mail.setText("123456 is your code.");
        Transport.send(mail, "shop", "secret");
    }
}
SCRIPT
  jars=/usr/share/java/jakarta-mail.jar:/usr/share/java/jakarta-activation.jar
  javac -cp "$jars" -d "$work" "$work/Verify.java" >>"$work/java.log" 2>&1
  keytool -importcert -noprompt -alias otp-relay -file "$trusted" -keystore "$work/trust.p12" -storepass changeit >>"$work/java.log" 2>&1
  verifies "Jakarta Mail, trustStore" tjava "trust='-Djavax.net.ssl.trustStore=$work/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit';" \
    "trust=;" 'java $trust -cp "$jars:$work" Verify "$smtp_port" "$how" "$recipient@example.test"'
else
  echo "left out: no Java compiler here"
fi

# Programs
letter "curl, --cacert" >"$work/curl3.txt"
verifies "curl, --cacert" tcurl "trust='--cacert $trusted';" "trust=;" \
  'curl --silent --show-error $trust --crlf --ssl-reqd --url "smtp://localhost:$smtp_port" --user shop:secret --mail-from otp@app.test --mail-rcpt "$recipient@example.test" --upload-file "$work/curl3.txt"'
letter "msmtp, tls_trust_file" >"$work/msmtp.txt"
verifies "msmtp, tls_trust_file" tmsmtp "trust=--tls-trust-file=$trusted;" "trust=;" \
  'msmtp --file=/dev/null --host=localhost --port="$smtp_port" --tls=on $trust --auth=plain --user=shop --passwordeval="echo secret" --from=otp@app.test "$recipient@example.test" <"$work/msmtp.txt"'
verifies "swaks, --tls-ca-path" tswaks "trust='--tls-ca-path $trusted';" "trust=;" \
  'swaks --server localhost:$smtp_port --tls --tls-verify $trust --auth-user shop --auth-password secret --from otp@app.test --to "$recipient@example.test" --header "Subject: $how"'
cat >"$work/verify.pl" <<'SCRIPT'
use strict; use warnings; use Net::SMTP;
my ($port, $how, $to) = @ARGV;
my $smtp = Net::SMTP->new('localhost', Port => $port) or die "no connection: $@";
$smtp->starttls or die 'STARTTLS: ', $smtp->message;
$smtp->auth('shop', 'secret') && $smtp->mail('otp@app.test') && $smtp->to($to) && $smtp->data or die $smtp->message;
$smtp->datasend("From: otp\@app.test\nSubject: $how\n\n123456 is your code.\n") && $smtp->dataend or die $smtp->message;
$smtp->quit;
SCRIPT
verifies "Net::SMTP, SSL_CERT_FILE" tperl "SSL_CERT_FILE=$trusted" "" \
  'perl "$work/verify.pl" "$smtp_port" "$how" "$recipient@example.test"'

told=$(jq -Rc 'fromjson? | objects | select(.reason == "tls_untrusted") | .text // empty' "$work/relay.log" | sort -u)
grep -q "the client does not trust the certificate (" <<<"$told" || fail "a line of the log that says so" "$told"
ok "the relay's log: $told"

count=$(wc -l <"$work/sink/index")
expected=$((25 + verified))
[ "$count" = "$expected" ] || fail "$expected messages in all, each for one recipient" "$count"
ok "nothing arrived beyond these $count"
stop relay || fail "exit status 0 of the relay" "$?"
