#!/bin/sh
# Make sure that the virtual environment $1 exists and has a Python that fedjob runs on.
# PYTHON=... names the interpreter to use; otherwise the first fitting one in PATH is taken.
set -eu

venv=$1
fits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$fits; import pip" 2>/dev/null; then
    exit 0
fi

for python in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
    if "$python" -c "$fits" >/dev/null 2>&1; then
        echo "making $venv with $("$python" --version)"
        exec "$python" -m venv --clear "$venv"
    fi
done

found=$("${PYTHON:-python3}" --version 2>&1 || true)
cat >&2 <<END
fedjob needs Python 3.11 or newer, with its venv module.
Looked for: ${PYTHON:-python3.11 to python3.14, python3, python}. Found: ${found:-nothing}.
Install one (Debian 12 or newer, Ubuntu 24.04 or newer: apt-get install python3 python3-venv),
or name one: make PYTHON=/path/to/python3.11 ...
END
exit 1
