#!/bin/sh
# Runs the agent in a cgroup of its own, /miniecs/main, beside which it makes those of tasks. On cgroup v1: just runs it.
#
# Not within the unit's cgroup: a cgroup that holds processes may give no controllers to cgroups below it (cgroups(7), "no
# internal processes"), and systemd puts the next agent into the unit's own before that can move on. With tasks of the
# agent before in there, it failed by 219/CGROUP. systemd has DelegateSubgroup= for this, but from version 254 on.
set -eu
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/miniecs/main
    for controller in cpu io memory pids cpuset; do
        echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || : # a kernel may lack one
    done
    echo $$ >/sys/fs/cgroup/miniecs/main/cgroup.procs
fi
exec "$@"
