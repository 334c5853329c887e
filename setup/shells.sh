#!/bin/sh
# Installs zsh and fish, in which tests press the Tab key, from the packages of Debian. Does nothing if both are there.
set -eu
if ! command -v zsh > /dev/null || ! command -v fish > /dev/null; then
    sh "$(dirname "$0")/debian.sh" "the tests of completions" zsh fish
fi
