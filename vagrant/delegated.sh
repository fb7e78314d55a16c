#!/bin/sh
# Runs the agent in a cgroup of its own, beside which it makes those of tasks. On cgroup v1: just runs it.
#
# Not within the unit's cgroup: a cgroup that holds processes may give no controllers to cgroups below it (cgroups(7), "no
# internal processes"), and systemd puts the next agent into the unit's own before that can move on. With tasks of the
# agent before in there, it failed by 219/CGROUP. systemd has DelegateSubgroup= for this, but from version 254 on.
# By the unit's name, from which the journal knows whose lines they are: `journalctl -u miniecs-agent` shows them.
set -eu
own=/sys/fs/cgroup/miniecs-agent.service
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    (umask 022 && mkdir -p $own/main) # the unit's umask is stricter: a container's root has to walk down to its cgroup
    for controller in cpu io memory pids cpuset; do
        echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || : # a kernel may lack one
    done
    echo $$ >$own/main/cgroup.procs
fi
exec "$@"
