#!/bin/sh
# Installs the project, with the extra that fits the hardware, into .venv: editable, for development.
# deploy/Dockerfile calls it too: INSTALL=dependencies installs what the project needs into PYTHON itself, and
# INSTALL=project then installs the project there.
#
# PYTHON   the interpreter to use (3.11 to 3.13)
# EXTRA    cpu or gpu, instead of looking for a GPU
# INSTALL  development [default], dependencies or project
#
# PyTorch's CPU build is not on the ordinary package index. If pip is configured with a local wheel folder
# that has it, uv takes it from there, and otherwise from PyTorch's own index.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
if ! command -v "$PYTHON" >/dev/null 2>&1; then
  echo "install: there is no $PYTHON: sudo apt-get install -y python3-venv, or make install PYTHON=…" >&2
  exit 2
fi
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
  echo "install: $PYTHON is not Python 3.11, 3.12 or 3.13; try: make install PYTHON=python3.11" >&2
  exit 2
fi
if [ -z "${EXTRA:-}" ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then EXTRA=gpu; else EXTRA=cpu; fi
fi
case $EXTRA in cpu|gpu) ;; *) echo "install: EXTRA=$EXTRA; it must be cpu or gpu" >&2; exit 2 ;; esac

UV="uv==0.13.9"
case ${INSTALL:-development} in
  development)
    # Prints a line for each thing that the machine lacks, before minutes are spent.
    "$PYTHON" inference_server/wire/hardware/prerequisites.py "$EXTRA"
    if [ -x .venv/bin/python ]; then
      version='import sys; print("%d.%d" % sys.version_info[:2])'
      has=$(.venv/bin/python -c "$version")
      asked=$("$PYTHON" -c "$version")
      [ "$has" = "$asked" ] || echo "install: .venv keeps its Python $has; for Python $asked, remove .venv first"
    else
      "$PYTHON" -m venv .venv
    fi
    PYTHON=.venv/bin/python
    set -- --python "$PYTHON" --editable ".[$EXTRA,dev]"
    echo "install: $EXTRA build into .venv (about two minutes the first time)" ;;
  dependencies) set -- --system --python "$PYTHON" --requirements pyproject.toml --extra "$EXTRA" --extra math ;;
  project) set -- --system --python "$PYTHON" --no-deps . ;;
  *) echo "install: INSTALL=$INSTALL; it must be development, dependencies or project" >&2; exit 2 ;;
esac
"$PYTHON" -m pip install --quiet "$UV"

set -- "$@" --constraint "requirements/constraints-$EXTRA.txt"
if [ "$EXTRA" = cpu ]; then
  set -- "$@" --override requirements/cpu-overrides.txt
  wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$PYTHON" -m pip config get global.find-links 2>/dev/null || true)}}
  if [ -n "$wheels" ] && ls "$wheels"/torch-*cpu*.whl >/dev/null 2>&1; then
    UV_FIND_LINKS=$wheels
    export UV_FIND_LINKS
  else
    set -- "$@" --torch-backend cpu
  fi
fi
"$PYTHON" -m uv pip install --quiet "$@"
