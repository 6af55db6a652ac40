#!/bin/sh
# Build a wheel, install it as a stranger would, with pip into a new virtual environment and with pipx, and run the
# demo in each, away from this checkout. It takes minutes and some gigabytes, which are removed at the end.
#
#   sh envs/try_install.sh PYTHON        or:  make try-install
set -eu
python=$1
checkout=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM HUP

"$python" "$checkout/envs/build.py" "$folder/dist"
wheel=$(echo "$folder"/dist/*.whl)
cd "$folder"
export PIP_CONSTRAINT=$checkout/envs/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1

demo() {
    echo "== $1: fedjob demo"
    "$2" demo --nodes 2 --rounds 2 --home "$folder/$1-demo" >"$folder/$1.log" 2>&1 || { tail -n 30 "$folder/$1.log"; exit 1; }
    tail -n 12 "$folder/$1.log" | head -n 4
}

echo '== pip install' "$(basename "$wheel")"
"$python" -m venv pip
pip/bin/pip install --quiet "$wheel"
if pip/bin/fedjob demo 2>lacking.txt; then echo 'the base alone ran the demo?' >&2; exit 1; fi
cat lacking.txt
grep -q "pip install 'fedjob\[demo\]'" lacking.txt
pip/bin/pip install --quiet "$wheel[demo]"
demo pip pip/bin/fedjob
rm -rf pip

echo '== pipx install' "$(basename "$wheel")"
"$python" -m venv with-pipx
with-pipx/bin/pip install --quiet pipx
PIPX_HOME=$folder/pipx PIPX_BIN_DIR=$folder/bin PIPX_MAN_DIR=$folder/man \
    with-pipx/bin/pipx install --quiet --python "$python" "$wheel[demo]"
demo pipx bin/fedjob
echo 'make try-install: both ran the demo'
