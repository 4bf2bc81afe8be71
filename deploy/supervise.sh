#!/bin/sh
# Runs a service as systemd does by the units of deploy/systemd: again after a crash and after what
# passes (exit code 3), as often as it takes; never after exit code 2, which needs a mend.
#
#   supervise.sh COMMAND [ARGUMENT …]
#
# Docker's restart policies know no exit codes: without a bound they would repeat code 2 for ever, and
# with one a run of days would stay down after its fifth crash. RESTART_S: whole seconds in between [10].
# STOPPED_CODE: what to exit with where a signal stopped the command and it ended with 0 [0]; to Kubernetes 0 is a
# finished job.
set -u

stopping= child=
# A fork that is still this shell would catch the signal and drop it: the command must have taken its place.
pass_on() {
  while cmp -s "/proc/$$/cmdline" "/proc/$child/cmdline" 2>/dev/null; do sleep 0.1; done
  kill -TERM "$child" 2>/dev/null
}
trap 'stopping=1; [ -z "$child" ] || pass_on' TERM INT
while [ -z "$stopping" ]; do
  # A session of its own, so that what the command leaves behind can be ended with it.
  setsid "$@" &
  child=$!
  # A signal that came before the child had a number was not passed on.
  [ -z "$stopping" ] || pass_on
  wait "$child"
  code=$?
  # A signal ends this script's wait, not the command.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
  done
  if [ -n "$stopping" ]; then
    # It may have ended before the second wait; 127 says that an earlier one has told its code.
    wait "$child"
    last=$?
    [ "$last" = 127 ] || code=$last
  fi
  kill -s KILL -- "-$child" 2>/dev/null
  case $code in
    0)
      [ -z "$stopping" ] || exit "${STOPPED_CODE:-0}"
      exit 0 ;;
    2)
      echo "supervise: exit code 2: mend what is said above and start it again" >&2
      exit 2 ;;
  esac
  if [ -z "$stopping" ]; then
    echo "supervise: exit code $code; started again in ${RESTART_S:-10} s" >&2
    left_s=${RESTART_S:-10}
    while [ "$left_s" -gt 0 ] && [ -z "$stopping" ]; do
      sleep 1
      left_s=$((left_s - 1))
    done
  fi
done
exit "${code:-143}"
