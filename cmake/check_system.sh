#!/usr/bin/env bash
# Names the Debian packages that are missing, all at once, and changes nothing.
set -u
python=${1:-python3}
missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
command -v git >/dev/null || missing+=(git)
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
  2>/dev/null || missing+=(python3-dev)
if [ ${#missing[@]} -gt 0 ]; then
  echo "qgf: error[2]: missing on this machine: ${missing[*]}; run: sudo apt-get install ${missing[*]}" >&2
  exit 2
fi
"$python" - <<'PY' || exit 2
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"qgf: error[2]: Python {sys.version.split()[0]}; 3.10 to 3.13 will do; set PYTHON=python3.11")
PY
