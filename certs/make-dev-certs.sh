#!/usr/bin/env bash
# Makes a certificate authority for development and a certificate for HOSTNAME (default: localhost) in this folder.
set -euo pipefail
cd "$(dirname "$0")"
hostname=${1:-localhost}
umask 077

openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days 365 -subj "/CN=otp-relay development CA" -out ca.pem

openssl ecparam -name prime256v1 -genkey -noout -out relay.key.sec1
openssl pkcs8 -topk8 -nocrypt -in relay.key.sec1 -out relay.key
openssl req -new -key relay.key -subj "/CN=$hostname" |
  openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -sha256 -out relay.pem \
    -extfile <(printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' "$hostname")
rm -f relay.key.sec1 ca.srl
echo "made ca.pem, relay.pem and relay.key for $hostname"
