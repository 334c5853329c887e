#!/bin/sh
# Installs the browser of the tests, its driver and the font of the approved pictures, from the packages of Debian.
# Does nothing if all are there.
set -eu
has_all() {
    command -v chromium > /dev/null && command -v chromedriver > /dev/null && fc-list 2> /dev/null | grep -q DejaVuSans.ttf
}
if ! has_all; then
    sh "$(dirname "$0")/debian.sh" "the tests of the pages" chromium chromium-driver fonts-dejavu-core fontconfig
    has_all
fi
