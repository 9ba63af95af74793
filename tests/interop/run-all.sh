#!/usr/bin/env bash
# Runs scripts of this folder, one after the other, each for a quarter of an hour at most, and goes on after a failure: the
# short set, or all of them.
#   usage: run-all.sh path/to/otp-relay [short|all] [KILL-ROUNDS]
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: $0 path/to/otp-relay [short|all] [KILL-ROUNDS]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
set_of=${2:-all} rounds=${3:-20}
short=(first-day postfix-mx routed-addresses silent-zone sloppy-hosts clients byte-exact lifecycle kill-rounds)
all=("${short[@]}" check-zones alerts page applications tls-policy greylisting smart-host overload clock disk power-cuts spam-score acme dkim-rotation
  backup journal webhooks backlog stats verifications hooks sdks api sandbox)
case $set_of in
  short) scripts=("${short[@]}") rounds=${3:-5} ;;
  all) scripts=("${all[@]}") ;;
  *) echo "$0: short or all, not $set_of" >&2; exit 2 ;;
esac
# Kinds of hosts at which nobody waits for long.
prompt=(good codes-differ-dot codes-differ-banner no-code-ehlo empty-line-banner odd-2xx-dot ehlo-451 data-250 bdat-unknown
  pipelining-554 tls-client-certificate tls-refused tls-broken second-utf8 no-8bit)
# What a script is given beside the relay. Hosts that keep everybody waiting are for the whole set.
options() {
  case $1 in
    kill-rounds) echo "$rounds" ;;
    sloppy-hosts) [ "$set_of" = all ] || echo "3 15 ${prompt[*]}" ;;
  esac
}
failed=()
for script in "${scripts[@]}"; do
  since=$SECONDS
  read -ra given < <(options "$script") || true
  timeout --kill-after=30 900 "$here/$script.sh" "$1" "${given[@]}" || failed+=("$script")
  echo "--- $script.sh: $((SECONDS - since)) s"
done
[ ${#failed[@]} = 0 ] || { echo "interop: FAILED: ${failed[*]}" >&2; exit 1; }
echo "interop, $set_of: all passed in $SECONDS s"
