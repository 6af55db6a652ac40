#!/bin/sh
# Find the programs that are named, or install them where that takes no question (root and apt-get).
# Never fails: without one of them the tests that need it are skipped and say so, and in CI they fail.
#
#   sh envs/programs.sh mosquitto nginx tinyproxy
set -u
PATH=$PATH:/usr/sbin:/usr/local/sbin

packages=
for program in "$@"; do
    command -v "$program" >/dev/null 2>&1 && continue
    case $program in
        nginx) packages="$packages nginx-light" ;;
        nft) packages="$packages nftables" ;;
        *) packages="$packages $program" ;;
    esac
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$packages (apt-get) ..."
    # RUNLEVEL=1 keeps the packages from starting servers of their own: the tests start theirs, on free ports.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    # shellcheck disable=SC2086 # a list of packages
    said=$({ apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } 2>&1) && exit 0
    echo "$said" | tail -n 3
fi
echo "not here:$packages; what needs one of these packages is skipped by the tests (install them to run it)"
exit 0
