#!/usr/bin/env bash
# Runs every script of this folder, one after the other, each for a quarter of an hour at most, and goes on after a failure.
#   usage: run-all.sh path/to/otp-relay [KILL-ROUNDS]
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: $0 path/to/otp-relay [KILL-ROUNDS]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
failed=()
for script in postfix-mx sloppy-hosts tls-policy greylisting silent-zone smart-host routed-addresses clients byte-exact lifecycle overload clock disk power-cuts kill-rounds; do
  rounds=()
  [ "$script" = kill-rounds ] && rounds=("${@:2:1}")
  since=$SECONDS
  timeout --kill-after=30 900 "$here/$script.sh" "$1" "${rounds[@]}" || failed+=("$script")
  echo "--- $script.sh: $((SECONDS - since)) s"
done
[ ${#failed[@]} = 0 ] || { echo "interop: FAILED: ${failed[*]}" >&2; exit 1; }
echo "interop: all passed in $SECONDS s"
