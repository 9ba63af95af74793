#!/usr/bin/env bash
# `otp-relay check` before nearly fifty zones, each broken in one way: BIND serves them from two servers, unbound asks for them,
# and hosts that play two big providers stand at the end of the way out. Each check finds what is wrong and nothing else.
# checkdmarc, pyspf and dkimpy look at the same records and do not disagree; named-checkzone takes the zone that is printed.
#   usage: check-zones.sh path/to/otp-relay
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need bind9 bind9-utils unbound iproute2 openssl
venv checkdmarc pyspf dnspython dkimpy cryptography
# BIND listens only at addresses that an interface has.
for address in 127.0.30.1 127.0.30.2; do ip address add "$address/32" dev lo 2>/dev/null || true; done
cleanup() { for address in 127.0.30.1 127.0.30.2; do ip address del "$address/32" dev lo 2>/dev/null || true; done; }
make_instance() { # NAME ADDRESS
  local folder=$work/$1
  mkdir -p "$folder"
  cat >"$folder/named.conf" <<CONFIG
options {
  directory "$folder"; pid-file "$folder/named.pid"; session-keyfile "$folder/session.key";
  listen-on port 53 { $2; }; listen-on-v6 { none; }; recursion no; dnssec-validation no; notify no; check-names primary ignore;
};
controls { };
include "$work/$1.zones";
CONFIG
  chown -R bind "$folder"
}
make_instance first 127.0.30.1
make_instance second 127.0.30.2
"$python" "$here/check_zones.py" prepare "$relay" "$work"
for which in first second; do start "$which" named -g -u bind -c "$work/$which/named.conf"; done
cat >"$work/unbound.conf" <<CONFIG
server:
  interface: 127.0.30.3
  port: 53
  do-ip6: no
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "$work"
  pidfile: "$work/unbound.pid"
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  local-zone: "127.in-addr.arpa." nodefault
  local-zone: "test." nodefault
  local-zone: "invalid." nodefault
  qname-minimisation: no
stub-zone:
  name: "."
  stub-addr: 127.0.30.1
remote-control:
  control-enable: no
CONFIG
start unbound unbound -d -c "$work/unbound.conf"
port_answers() { (exec 3<>"/dev/tcp/$1/53") 2>/dev/null; }
for address in 127.0.30.1 127.0.30.2 127.0.30.3; do wait_for 15 "a name server at $address" port_answers $address; done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj /CN=ca.test -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=app.test -keyout "$work/app.key" -out "$work/app.csr" 2>/dev/null
printf 'subjectAltName=IP:127.0.30.26\n' >"$work/app.ext"
openssl x509 -req -in "$work/app.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 -extfile "$work/app.ext" -out "$work/app.pem" 2>/dev/null
echo "whsec_$(head -c 32 /dev/urandom | base64)" >"$work/w.secret"
chmod 600 "$work/w.secret"
start apps "$python" "$here/check_zones.py" apps "$work"
wait_for 10 "the apps behind webhooks" grep -qs '^[0-9]* [0-9]*$' "$work/apps.log"
read -r app_port late_port <"$work/apps.log"
start_printing hosts mx_port "$python" "$here/check_zones.py" hosts
"$python" "$here/check_zones.py" look "$relay" "$work" "$mx_port" "$app_port" "$late_port" || fail "each finding and no other" "see above"
shown=$("$python" "$here/check_zones.py" count)
