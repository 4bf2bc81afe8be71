#!/bin/sh
# Makes .venv and installs the project with the extra that fits the hardware.
#
# PYTHON  the interpreter to use (3.11 to 3.13)       EXTRA  cpu or gpu, instead of looking for a GPU
#
# PyTorch's CPU build is not on the ordinary package index. Where pip is told of a local wheel
# folder that holds it, that folder serves; elsewhere uv takes it from PyTorch's own index.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
  echo "install: $PYTHON is not Python 3.11, 3.12 or 3.13; try: make install PYTHON=python3.11" >&2
  exit 2
fi
if [ -z "${EXTRA:-}" ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then EXTRA=gpu; else EXTRA=cpu; fi
fi
case $EXTRA in cpu|gpu) ;; *) echo "install: EXTRA=$EXTRA; it must be cpu or gpu" >&2; exit 2 ;; esac

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet "uv==0.13.9"

set -- --python .venv/bin/python --constraint "requirements/constraints-$EXTRA.txt" --editable ".[$EXTRA,dev]"
if [ "$EXTRA" = cpu ]; then
  set -- "$@" --override requirements/cpu-overrides.txt
  wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}}
  if [ -n "$wheels" ] && ls "$wheels"/torch-*cpu*.whl >/dev/null 2>&1; then
    UV_FIND_LINKS=$wheels
    export UV_FIND_LINKS
  else
    set -- "$@" --torch-backend cpu
  fi
fi
echo "install: $EXTRA build into .venv (about two minutes the first time)"
.venv/bin/uv pip install --quiet "$@"
