#!/bin/sh
# Installs the browser of the tests, its driver and the font of the approved pictures, from the packages of Debian.
# Does nothing if all are there.
set -eu
has_all() {
    command -v chromium > /dev/null && command -v chromedriver > /dev/null && fc-list 2> /dev/null | grep -q DejaVuSans.ttf
}
if has_all; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "the tests of the pages need chromium, chromedriver and the font DejaVu Sans: install them" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
$as_root apt-get update
$as_root apt-get install --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core fontconfig
has_all
