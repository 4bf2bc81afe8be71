#!/bin/sh
# Runs a service as systemd does with the units of deploy/systemd: it is restarted after a crash and after a
# temporary failure (exit code 3), without a limit, but never after exit code 2, which somebody must fix.
#
#   supervise.sh COMMAND [ARGUMENT …]
#
# Docker's restart policies do not look at exit codes: without a limit they would restart after code 2 for ever, and
# with a limit a run of days would stay down after its fifth crash.
#
# RESTART_S: whole seconds before a restart [10].
# STOPPED_CODE: the exit code if a signal stopped the command and it ended with 0 [0]. Kubernetes takes 0 for a
# finished job.
set -u

stopping= child=
# Until the fork has become the command, it is still this shell, which would catch the signal and drop it.
pass_on() {
  while cmp -s "/proc/$$/cmdline" "/proc/$child/cmdline" 2>/dev/null; do sleep 0.1; done
  kill -TERM "$child" 2>/dev/null
}
trap 'stopping=1; [ -z "$child" ] || pass_on' TERM INT
while [ -z "$stopping" ]; do
  # The command gets a session of its own, so that processes it leaves behind can be killed too.
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
    # The command may have ended before the second wait. 127 means that an earlier wait returned its code.
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
      echo "supervise: exit code 2: fix the problem reported above and start it again" >&2
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
