#!/bin/sh
# Prints `nvidia-smi -q -x` when it starts and every 5 minutes, for gpuid, which reads the log of this container.
# For any POSIX sh with awk and a writable /tmp. Never runs nvidia-smi twice at once, and ends at once on SIGTERM.
#   INTERVAL_SECONDS  from one run to the next, give or take 5% so that the nodes of a cluster drift apart (300); from 30
#                     on, for gpuid tells documents apart by the pauses between them
#   TIMEOUT_SECONDS   after which nvidia-smi is ended (60); at most 60, for by that gpuid knows when a document was measured
#   NVIDIA_SMI        the program (nvidia-smi)
set -u
LC_ALL=C # whatever bytes it prints
export LC_ALL

RETRY_SECONDS=60       # from a failure to the next run, or INTERVAL_SECONDS where that is less
MAX_FAILURES=12        # in a row; then the container ends, to be started again with the driver that the node has now
MAX_OUTPUT_BLOCKS=8192 # of 512 bytes (bash: 1024), in a file that nvidia-smi writes

interval=${INTERVAL_SECONDS:-300} limit=${TIMEOUT_SECONDS:-60} program=${NVIDIA_SMI:-nvidia-smi}
cut=$(dirname "$0")/cut.awk output=${TMPDIR:-/tmp}/output errors=${TMPDIR:-/tmp}/errors
smi='' sleeper='' failures=0

say() {
  printf 'gpuid-reader: %s\n' "$*"
}

stop() {
  trap '' TERM INT
  for process in $smi $sleeper; do
    kill -KILL "$process" 2>/dev/null
  done
  exit 0
}

pause() { # SECONDS
  sleep "$1" &
  sleeper=$!
  wait "$sleeper" || { say "cannot sleep; ending" && exit 1; } # rather than to run without a pause
  sleeper=''
}

await() { # wait for nvidia-smi, and end it when it takes too long; its exit status is in $status
  elapsed=0
  while kill -0 "$smi" 2>/dev/null; do
    if [ "$elapsed" -eq "$limit" ]; then
      say "$program has not ended after $limit s; ending it"
      kill -TERM "$smi" 2>/dev/null
    elif [ "$elapsed" -eq $((limit + 2)) ]; then
      kill -KILL "$smi" 2>/dev/null
    elif [ "$elapsed" -gt $((limit + 5)) ] && [ $((elapsed % interval)) -eq 0 ]; then
      say "$program cannot be killed after $elapsed s: it hangs in the driver, as a second one would; waiting for it"
    fi
    pause 1 # the shell takes note of whatever process of its own has ended meanwhile
    elapsed=$((elapsed + 1))
  done
  wait "$smi" 2>/dev/null
  status=$?
  smi=''
}

first_lines() { # FILE: the words in it, and no part of a document
  awk '!/</ && NF && count++ < 20 { print substr($0, 1, 500) }' "$1"
}

read_gpus() { # print one document, or why there is none
  "$program" -q -x </dev/null >"$output" 2>"$errors" &
  smi=$!
  await
  first_lines "$errors"
  if grep -q '</nvidia_smi_log>' "$output"; then
    [ "$status" -eq 0 ] || say "$program printed its document, but ended with exit status $status"
    awk -f "$cut" "$output"
    return 0
  fi
  first_lines "$output"
  say "$program printed no document and ended with exit status $status"
  return 1
}

choose_wait() { # the interval, give or take 5%, different on each node and at each time; it is in $seconds
  seconds=$(awk -v text="$(uname -n) $(date +%s)" -v interval="$interval" 'BEGIN {
    for (at = 1; at <= length(text); at++)
      number = (number * 31 + index("0123456789abcdefghijklmnopqrstuvwxyz-.", substr(text, at, 1))) % 65521
    print interval - int(interval / 20) + number % (int(interval / 10) + 1)
  }')
  seconds=${seconds:-$interval}
}

exec 2>&1
for number in "$interval" "$limit"; do
  case $number in
  0* | *[!0-9]*)
    say "INTERVAL_SECONDS and TIMEOUT_SECONDS: expected seconds as a whole number from 1, got '$number'"
    exit 2
    ;;
  esac
done
trap stop TERM INT
ulimit -f "$MAX_OUTPUT_BLOCKS"
: >"$output" >"$errors" || { say "cannot write to ${TMPDIR:-/tmp}" && exit 2; }
while :; do
  if read_gpus; then
    failures=0
    choose_wait
  else
    failures=$((failures + 1))
    [ "$failures" -lt "$MAX_FAILURES" ] || { say "$failures failures in a row; ending" && exit 1; }
    seconds=$((interval < RETRY_SECONDS ? interval : RETRY_SECONDS))
  fi
  pause "$seconds"
done
