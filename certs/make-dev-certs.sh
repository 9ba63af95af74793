#!/usr/bin/env bash
# Makes a certificate authority for development and a certificate signed by it, in the folder `certs` beside the configuration:
# where `certificate = "certs/relay.pem"` under [tls] is looked for.
#   usage: make-dev-certs.sh [-c FILE] [HOSTNAME]
# FILE is the configuration, by default config/relay.toml of this repository; HOSTNAME by default the one in it, or localhost. An
# authority that is there already goes on signing, so that clients which trust it need nothing new.
set -euo pipefail
config=$(cd "$(dirname "$0")/.." && pwd)/config/relay.toml
if [ "${1:-}" = -c ]; then
  config=${2:?the configuration file has to follow -c}
  shift 2
fi
hostname=${1:-$(sed -n 's/^hostname *= *"\([^"]*\)".*/\1/p' "$config" 2>/dev/null || true)}
hostname=${hostname:-localhost}
umask 077
mkdir -p "$(dirname "$config")/certs"
cd "$(dirname "$config")/certs"

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

if ! openssl x509 -in ca.pem -noout -checkend $((400 * 86400)) >/dev/null 2>&1 || ! [ -r ca.key ]; then
  new_key ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=otp-relay development CA" -out ca.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
fi

names="DNS:localhost,DNS:host.docker.internal,IP:127.0.0.1,IP:::1"
[ "$hostname" = localhost ] || names+=",DNS:$hostname"
new_key relay.key
openssl req -new -key relay.key -subj "/CN=$hostname" |
  openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -sha256 -out relay.pem \
    -extfile <(printf '%s\n' "subjectAltName=$names" basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
      extendedKeyUsage=serverAuth subjectKeyIdentifier=hash authorityKeyIdentifier=keyid) 2>/dev/null
rm -f ca.srl
# What clients trust is no secret.
chmod 755 . && chmod 644 ca.pem relay.pem
echo "made $PWD/relay.pem and relay.key for $hostname; clients trust $PWD/ca.pem. Under [tls]:"
echo '  certificate = "certs/relay.pem"'
echo '  private_key = "certs/relay.key"'
