#!/usr/bin/env bash
# Applications as their makers ship them mail a code or a reset of a password: each takes its own path through its own mailer
# to the relay, by STARTTLS and a login, believing a certificate authority that it is told of, and the mail arrives. Told of
# none, those that look at certificates give up, and the relay's log says why in one line.
#   usage: applications.sh path/to/otp-relay [APPLICATION...]
# What a leg needs is installed into folders of this run, or into $PACKAGES, where it is kept. What cannot be installed is told
# as SKIPPED and counts for nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
shift
wanted=" $* "
packages=${PACKAGES:-$work/packages}
apps=$here/applications
mkdir -p "$packages"
need openssl curl

# The authority; the relay's certificate for the name that all use, and one for another name.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=Authority of this test" \
  -keyout "$work/ca.key" -out "$work/ca.pem" 2>"$work/openssl.log"
certificate() { # FILE NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.csr"
  openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 -out "$work/$1.pem" \
    -extfile <(printf '%s\n' "subjectAltName = $2" "extendedKeyUsage = serverAuth")
} 2>>"$work/openssl.log"
certificate relay "DNS:localhost, IP:127.0.0.1"
certificate other "DNS:other.example.com"

start_dns "people.example.com MX 10 mx.people.example.com" "mx.people.example.com A 127.0.0.1"
start_sink sink --chunking
smtp_port=$(free_port)
hash=$(password_hash secret)
config_with() { # CERTIFICATE
  base_config
  printf '%s\n' '[tls]' "certificate = \"$work/$1.pem\"" "private_key = \"$work/$1.key\""
  printf '%s\n' '[[user]]' 'name = "shop"' "password_hash = \"$hash\"" 'senders = ["*@shop.example.com"]'
}
config_with relay >"$work/relay.toml"
config_with other >"$work/other.toml"
export RELAY_HOST=localhost RELAY_PORT=$smtp_port RELAY_USER=shop RELAY_PASSWORD=secret SENDER=otp@shop.example.com RECIPIENT

# install NAME COMMAND...: once; what it says goes to $work/NAME-install.log.
install() {
  [ -e "$packages/$1.done" ] && return
  "${@:2}" >"$work/$1-install.log" 2>&1 && : >"$packages/$1.done"
}
python_packages() { # FOLDER PACKAGE...
  "$python" -m venv "$packages/$1" && "$packages/$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
}
node_packages() { mkdir -p "$packages/$1" && npm install --silent --no-fund --no-audit --prefix "$packages/$1" "${@:2}"; }
version_of() { "$packages/$1/bin/python3" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$2"; }
node_version_of() { jq -r .version "$packages/node/node_modules/$1/package.json"; }
debian_version_of() { dpkg-query -W -f '${Version}' "$1"; }

arrived() { jq -r "select(.to == [\"$1\"]).file" "$work/sink/index" 2>/dev/null | grep .; }
# What the log says of a client that goes away for the certificate's sake.
untrusted() {
  jq -Rr 'fromjson? | objects | select(.fields.reason? == "tls_untrusted" or .reason? == "tls_untrusted") | .text // .fields.text' \
    "$work/relay.log" | grep .
}

# leg NAME LOOKS COMMAND...: runs the application with `trust` as the way in which it is told of the authority; without it; and
# with it at a relay whose certificate is for another name. LOOKS is `verifies`, or `takes any` for an application that by itself
# looks at no certificate.
leg() {
  local name=$1 looks=$2 file why_unknown why_other
  shift 2
  with_relay relay
  RECIPIENT=$name@people.example.com
  env "${trust[@]}" timeout 120 "$@" >"$work/$name.log" 2>&1 || fail "$name to send" "$(tail -n 5 "$work/$name.log")"
  wait_for 15 "the mail of $name" arrived "$RECIPIENT" >/dev/null
  file=$work/sink/$(arrived "$RECIPIENT")
  grep -q "^Received: by relay.app.test (otp-relay) with E*S*[A-Z0-9]*SMTPSA id " "$file" || fail "$name: STARTTLS and a login" "$(head -n 1 "$file")"
  untrusted && fail "$name: nothing said of certificates" "a line"
  without_relay

  with_relay relay
  RECIPIENT=$name-untold@people.example.com
  timeout 120 "$@" >"$work/$name-untold.log" 2>&1 &
  pids[application]=$!
  if [ "$looks" = "takes any" ]; then
    wait_for 60 "the mail of $name" arrived "$RECIPIENT" >/dev/null
    wait "${pids[application]}" || fail "$name to end well" "status $?"
    without_relay
    ok "$name $version: delivered; looks at no certificate"
    return
  fi
  gave_up "$RECIPIENT"
  why_unknown=$why
  without_relay

  with_relay other
  RECIPIENT=$name-other@people.example.com
  env "${trust[@]}" timeout 120 "$@" >"$work/$name-other.log" 2>&1 &
  pids[application]=$!
  gave_up "$RECIPIENT"
  why_other=$why
  without_relay
  ok "$name $version: delivered, trusts by ${trust[*]%%=*}; the log says of an unknown authority: $why_unknown; of another name: $why_other"
}
with_relay() {
  : >"$work/relay.log"
  start_relay "$work/$1.toml"
}
without_relay() { stop relay || fail "exit status 0 of the relay" "$?"; }
# gave_up RECIPIENT: nothing arrives, and one line says why; it is in `why`. Some applications wait for ever then.
gave_up() {
  wait_for 60 "the log to say that $name does not trust the certificate" untrusted >/dev/null
  why=$(untrusted)
  [ "$(wc -l <<<"$why")" = 1 ] || fail "$name: one line" "$why"
  for _ in {1..100}; do ended "${pids[application]}" && break || sleep 0.05; done
  stop application || true
  ! arrived "$1" || fail "nothing of $name without trust" "a mail"
}
skipped() { echo "SKIPPED: $1: $2"; left_out=$((left_out + 1)); }
left_out=0

# application NAME PACKAGES VERSION LOOKS COMMAND...: a leg, where `install_PACKAGES` succeeds; VERSION is a command.
application() {
  local name=$1 group=$2
  [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || return 0
  if ! install "$group" "install_$group"; then
    skipped "$name" "cannot be installed: $(grep -v '^ *$' "$work/$group-install.log" | tail -n 1 | cut -c 1-200)"
    return 0
  fi
  version=$($3)
  leg "$name" "$4" "${@:5}"
}

install_django() { python_packages django django django-allauth; }
install_flask() { python_packages flask 'Flask-Security[common,fsqla]' flask-mailman; }
install_fastapi() { python_packages fastapi fastapi fastapi-mail httpx; }
install_privacyidea() { python_packages privacyidea privacyIDEA; }
install_synapse() { python_packages synapse matrix-synapse; }
install_node() {
  { command -v npm || need nodejs npm; } && node_packages node better-auth @auth/core nodemailer && cp "$apps"/*.mjs "$packages/node/"
}
install_php() { need php-cli php-symfony-mailer libphp-phpmailer; }
install_ruby() { need ruby ruby-actionmailer ruby-railties ruby-activerecord ruby-sqlite3 ruby-devise; }
install_java() {
  need default-jdk-headless libjakarta-mail-java libjakarta-activation-java && mkdir -p "$packages/java" &&
    javac -cp "$jars" -d "$packages/java" "$apps/JakartaMail.java"
}
install_perl() { need libemail-sender-perl libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl; }
jars=/usr/share/java/jakarta-mail.jar:/usr/share/java/jakarta-activation.jar
in_venv() { echo "$packages/$1/bin/python3"; }

trust=(SSL_CERT_FILE="$work/ca.pem")
application django django "version_of django django" verifies "$(in_venv django)" "$apps/django_reset.py"
application allauth django "version_of django django-allauth" verifies "$(in_venv django)" "$apps/allauth_code.py"
application flask-security flask "version_of flask Flask-Security" "takes any" "$(in_venv flask)" "$apps/flask_security_reset.py"
application fastapi-mail fastapi "version_of fastapi fastapi-mail" verifies "$(in_venv fastapi)" "$apps/fastapi_mail_code.py"
application privacyidea privacyidea "version_of privacyidea privacyIDEA" "takes any" "$(in_venv privacyidea)" "$apps/privacyidea_code.py"
export SYNAPSE=$packages/synapse
application synapse synapse "version_of synapse matrix-synapse" verifies bash "$apps/synapse_reset.sh"
application actionmailer ruby "debian_version_of ruby-actionmailer" verifies ruby "$apps/actionmailer.rb"
application devise ruby "debian_version_of ruby-devise" verifies ruby "$apps/devise.rb"
application email-sender perl "debian_version_of libemail-sender-perl" verifies perl "$apps/email_sender.pl"

trust=(NODE_EXTRA_CA_CERTS="$work/ca.pem")
application better-auth node "node_version_of better-auth" verifies node "$packages/node/better-auth.mjs"
application auth.js node "node_version_of @auth/core" verifies node "$packages/node/authjs.mjs"

# Where PHP is told of authorities: the setting openssl.cafile, here in a file of its own.
echo "openssl.cafile = $work/ca.pem" >"$work/trust.ini"
trust=(PHP_INI_SCAN_DIR=":$work/php")
mkdir "$work/php" && mv "$work/trust.ini" "$work/php/"
application symfony php "debian_version_of php-symfony-mailer" verifies php "$apps/symfony.php"
application phpmailer php "debian_version_of libphp-phpmailer" verifies php "$apps/phpmailer.php"

trust=(JDK_JAVA_OPTIONS="-Djavax.net.ssl.trustStore=$work/ca.p12 -Djavax.net.ssl.trustStorePassword=changeit")
[ ! -e /usr/bin/keytool ] || keytool -importcert -noprompt -file "$work/ca.pem" -alias ca -keystore "$work/ca.p12" \
  -storetype PKCS12 -storepass changeit >"$work/keytool.log" 2>&1
application jakarta-mail java "debian_version_of libjakarta-mail-java" verifies java -cp "$jars:$packages/java" JakartaMail

[ "$left_out" = 0 ] || echo "$name: $left_out applications were left out"
