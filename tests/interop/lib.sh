# What the scripts share; they source it. Needs bash, runs as root. See README.md.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$(basename "$0")
[ $# -ge 1 ] || { echo "usage: $0 path/to/otp-relay" >&2; exit 2; }
relay=$(realpath "$1")
work=$(mktemp -d "/tmp/otp-relay-${name%.sh}.XXXXXX")
chmod 755 "$work"
declare -A pids=()
shown=0
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here DEBIAN_FRONTEND=noninteractive
umask 022

ok() { shown=$((shown + 1)); echo "ok: $*"; }

# fail EXPECTED SEEN
fail() { echo "FAILED: $name: expected $1; seen: $2" >&2; exit 1; }

# Ends everything that was started, whatever happened; after a failure the last lines of each log are shown.
finish() {
  local status=$? log pid
  trap - EXIT
  if [ "$status" != 0 ]; then
    echo "FAILED: $name: status $status" >&2
    for log in "$work"/*.log; do
      [ -s "$log" ] && { echo "--- the end of $(basename "$log")"; tail -n 15 "$log" | cut -c 1-400; } >&2
    done
  elif [ "$shown" != 0 ]; then # Not where it only ran itself again, in namespaces.
    echo "$name: $shown things shown"
  fi
  declare -F cleanup >/dev/null && cleanup
  for pid in "${pids[@]}"; do
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  [ -z "${KEEP:-}" ] && rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# need PACKAGE...: installs the Debian packages that are not there.
need() {
  local package missing=()
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} = 0 ] && return
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >>"$work/apt.log" 2>&1
}

# venv PACKAGE...: Python packages in a folder of their own; `$python` has them.
venv() {
  need python3-venv
  "$python" -m venv "$work/venv" >>"$work/pip.log" 2>&1
  python=$work/venv/bin/python3
  "$python" -m pip install --quiet --use-pep517 --disable-pip-version-check "$@" >>"$work/pip.log" 2>&1
}

need python3 jq
python=/usr/bin/python3

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  local seconds=$1 what=$2 end=$((SECONDS + $1))
  shift 2
  until "$@"; do
    [ "$SECONDS" -le "$end" ] || fail "$what within $seconds s" "nothing of it"
    sleep 0.05
  done
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ended() { ! kill -0 "$1" 2>/dev/null; }
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start NAME COMMAND...: in the background; its output goes to $work/NAME.log.
start() {
  local who=$1
  shift
  "$@" >>"$work/$who.log" 2>&1 &
  pids[$who]=$!
}

# stop NAME [SIGNAL]: returns its exit status.
stop() {
  local pid=${pids[$1]} status=0
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || status=$?
  unset "pids[$1]"
  return "$status"
}

# start_printing NAME VARIABLE COMMAND...: as `start`; the first line the command prints is its port.
start_printing() {
  local who=$1
  local -n port=$2
  shift 2
  start "$who" "$@"
  wait_for 10 "the port of $who" grep -qs '^[0-9]*$' "$work/$who.log"
  port=$(head -n 1 "$work/$who.log")
}

# start_dns LINE...: a name server with these lines for its table; sets `dns_port`.
start_dns() {
  printf '%s\n' "$@" >"$work/dns.table"
  start_printing dns dns_port "$python" "$here/name_server.py" "$work/dns.table"
}

# start_sink NAME [OPTION...]: a mail host that keeps what it gets in $work/NAME; sets `mx_port`.
start_sink() {
  mkdir -p "$work/$1"
  start_printing "$1" mx_port "$python" "$here/sink.py" "$work/$1" "${@:2}"
}

# make_keys DOMAIN: an RSA and an Ed25519 key in $work/keys; sets `dkim_config` and `dkim_table` (lines for start_dns).
make_keys() {
  "$relay" dkim generate "$1" otp1 --out "$work/keys" >"$work/zone" 2>&1
  dkim_config=$(sed -n '/^\[\[dkim\]\]/,$p' "$work/zone")
  dkim_table=$(sed -n 's/^\(.*_domainkey[^ ]*\)\. [0-9]* IN \(TXT\) "\(.*\)"$/\1 \2 \3/p' "$work/zone" | sed 's/" "//g')
}

# password_hash PASSWORD
password_hash() { printf %s "$1" | "$relay" user hash; }

# base_config: the part of a configuration that most scripts share: one listener on `$smtp_port`, mail to `$mx_port`.
base_config() {
  cat <<CONFIG
hostname = "relay.app.test"
data_dir = "$work/data"
[[listener]]
address = "127.0.0.1:$smtp_port"
${listener_options:-}
[resolver]
nameservers = ["127.0.0.1:$dns_port"]
dnssec = false
[delivery]
port = $mx_port
allow_private_destinations = true
[http]
address = "off"
[otp]
recipient_budget = "off"
[log]
format = "json"
recipients = "full"
CONFIG
}

# with_api PORT [TOKEN_FILE]: the configuration read, with the API on this port.
with_api() { sed "s|^address = \"off\"|address = \"127.0.0.1:$1\"${2:+\ntoken_file = \"$2\"}|"; }

# start_relay [CONFIG]: returns when it can be connected to; its log is $work/relay.log.
start_relay() {
  start relay "$relay" serve -c "${1:-$work/relay.toml}"
  wait_for 20 "the relay to listen on port $smtp_port" relay_is_up
}
relay_is_up() {
  ended "${pids[relay]}" && fail "the relay to start" "$(tail -n 3 "$work/relay.log")"
  answers "$smtp_port"
}

# says PATTERN COMMAND...: whether a line that the command prints has it. All of it is read: behind `| grep -q` a command may
# still be writing when grep has seen enough, and fail for it.
says() {
  local output
  output=$("${@:2}") && grep -q -- "$1" <<<"$output"
}

# event FILTER: the first event in the relay's log that the jq filter selects; fails if there is none.
event() {
  jq -Rc "fromjson? | objects | select(.event != null and ($1))" "$work/relay.log" | sed -n 1p | grep .
}

# expect_event SECONDS WHAT FILTER: waits for such an event; it is then in `$seen`.
expect_event() {
  wait_for "$1" "the event: $2" event "$3" >/dev/null
  seen=$(event "$3")
}

# kill_under_load ROUND MS: starts the relay, sends to it over 16 connections, and kills it 200 ms and up to so many more behind the
# first 250. What was acknowledged is in `$acknowledged`, a line `ROUND-...` each; `milliseconds` says when it was killed.
acknowledged=$work/acknowledged
: >"$acknowledged"
in_round() { grep -c "^$1-" "$acknowledged" || true; }
has_begun() { [ "$(in_round "$1")" -gt 0 ]; }
kill_under_load() {
  : >"$work/relay.log"
  start_relay
  start load "$python" "$here/kill-rounds.py" load "$smtp_port" "$1" "$acknowledged"
  wait_for 60 "the first 250 of round $1" has_begun "$1"
  milliseconds=$((200 + SRANDOM % ($2 + 1)))
  sleep "$((milliseconds / 1000)).$(printf %03d $((milliseconds % 1000)))"
  stop relay KILL || true
  wait "${pids[load]}" || fail "the load to end with the relay" "$(tail -n 1 "$work/load.log")"
  unset 'pids[load]'
}
