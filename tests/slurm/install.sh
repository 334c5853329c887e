#!/bin/sh
# Installs Slurm for tests/jobs/slurm.rs with apt, if it is not there. Prints 1 if the tests can run: they need root, for
# munged and slurmd.
set -eu
has_slurm() {
    command -v slurmctld > /dev/null && command -v slurmd > /dev/null && command -v munged > /dev/null
}
test "$(id -u)" = 0 || exit 0
PATH=$PATH:/usr/sbin:/sbin
if ! has_slurm && command -v apt-get > /dev/null; then
    (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge) >&2 || true
fi
if has_slurm; then echo 1; fi
