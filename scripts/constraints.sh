#!/bin/sh
# Resolves both extras for every supported Python and writes only names and versions.
set -eu
cd "$(dirname "$0")/.."

resolve() {
  extra=$1
  shift
  .venv/bin/uv pip compile pyproject.toml --extra "$extra" --extra dev --universal --quiet \
    --no-header --no-annotate "$@" >/dev/null --output-file "requirements/.resolved"
  {
    echo "# Every version of the $extra install, for Python 3.11 to 3.13; made by: make constraints"
    grep -vE "sys_platform == 'never'|^torch==[0-9.]+ ;" requirements/.resolved
  } >"requirements/constraints-$extra.txt"
  rm requirements/.resolved
}

# The CPU build of PyTorch comes from a local wheel folder if there is one; see install.sh.
if [ -n "${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" ]; then
  UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
  export UV_FIND_LINKS
  resolve cpu --override requirements/cpu-overrides.txt
else
  resolve cpu --override requirements/cpu-overrides.txt --torch-backend cpu
fi
# The GPU build comes from the package index, even if there are local wheels.
unset UV_FIND_LINKS
resolve gpu
