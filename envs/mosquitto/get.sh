#!/bin/sh
# Find Mosquitto, or install it where that takes no question (root and apt-get).
# Never fails: without it the tests that need it are skipped and say so, and in CI they fail.
set -u
PATH=$PATH:/usr/sbin:/usr/local/sbin

if command -v mosquitto >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo 'installing Mosquitto (apt-get) ...'
    # RUNLEVEL=1 keeps the package from starting a broker of its own: the tests start theirs, on free ports.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    said=$({ apt-get update -qq && apt-get install -y -qq --no-install-recommends mosquitto; } 2>&1) && exit 0
    echo "$said" | tail -n 3
fi
echo 'no Mosquitto here: the tests that need it are skipped (install the package mosquitto to run them)'
exit 0
