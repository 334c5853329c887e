#!/bin/sh
# Installs packages of Debian: `debian.sh WHAT PACKAGE...`. WHAT needs them, for the message where there is no apt-get.
set -eu
what=$1
shift
if ! command -v apt-get > /dev/null; then
    echo "$what need $*: install them" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
$as_root apt-get update
$as_root apt-get install --yes --no-install-recommends "$@"
