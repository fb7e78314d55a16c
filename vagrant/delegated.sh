#!/bin/sh
# Runs a command in a leaf of the cgroup that systemd delegated (Delegate=yes), so that the command may give controllers to
# cgroups beside that leaf: one that holds processes may not. cgroups(7), "no internal processes". On cgroup v1: just runs it.
set -eu
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    leaf=/sys/fs/cgroup${own%/main}/main
    mkdir -p "$leaf"
    echo $$ >"$leaf/cgroup.procs"
fi
exec "$@"
