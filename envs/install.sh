#!/bin/sh
# Install this checkout into the virtual environment $1, with the packages of envs/locks/$2.txt: each file is compared
# with the sha256 that the lock has of it, and nothing else is fetched.
#
#   sh envs/install.sh .venv demo
set -eu
python=$1/bin/python
install() { "$python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps --use-pep517 "$@"; }

# What builds from sources comes first: the others, and this checkout, are built with it and with nothing fetched for it.
install --require-hashes --requirement envs/locks/build.txt

# torch for the CPU alone is taken where it is offered (a folder in PIP_FIND_LINKS, see docs/operations.md) ...
if grep -q '^torch==' "envs/locks/$2.txt"; then
    said=$(install --require-hashes --requirement envs/locks/cpu.txt 2>&1) || case $said in
        *'No matching distribution'*) ;;
        *) echo "$said" >&2; exit 1 ;;
    esac
fi
install --require-hashes --no-build-isolation --requirement "envs/locks/$2.txt"

# ... and otherwise the index's, built for CUDA, which wants libraries beside it.
if "$python" - <<'END'
import sys
from importlib.metadata import PackageNotFoundError, requires
try:
    needs = requires("torch") or []
except PackageNotFoundError:
    needs = []
sys.exit(not any(need.startswith(("nvidia-", "cuda-")) for need in needs))
END
then
    install --require-hashes --requirement envs/locks/cuda.txt
fi

install --no-build-isolation --editable .
"$python" -m pip check --disable-pip-version-check >/dev/null || {
    "$python" -m pip check --disable-pip-version-check >&2 || true
    echo "envs/locks/$2.txt does not fit setup.cfg: run \`make lock\`" >&2
    exit 1
}
