#!/bin/sh
# Where no systemd runs: what it would do for our units, in thirty lines. The command comes from the unit's file, so that
# there is one place for it; the service has a cgroup of its own, a log in /var/log, and is started again when it ends.
#
#   supervise.sh start|stop|restart|status UNIT      miniecs-server or miniecs-agent
#   supervise.sh boot                                start every unit that is enabled: /etc/rc.local does this
set -eu
verb=${1:?start, stop, restart, status or boot} unit=${2:-}
run=/run/miniecs

running() { [ -f $run/"$unit" ] && kill -0 "$(cat $run/"$unit")" 2>/dev/null; }

start() {
    running && return 0
    mkdir -p $run
    setsid sh "$0" loop "$unit" </dev/null >>/var/log/"$unit".log 2>&1 &
    echo $! >$run/"$unit"
}

# The loop first, so that it starts nothing new; then the service: its tasks' supervisors are in sessions of their own.
stop() {
    running || return 0
    kill "$(cat $run/"$unit")" && kill "$(cat $run/"$unit".service)" 2>/dev/null || :
    while kill -0 "$(cat $run/"$unit".service)" 2>/dev/null; do sleep 0.1; done
    rm -f $run/"$unit" $run/"$unit".service
}

loop() {
    file=/etc/systemd/system/$unit.service
    OPTIONS=
    # shellcheck disable=SC1090 # what provision.sh wrote
    . "$(sed -n 's/^EnvironmentFile=//p' "$file")"
    export AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-us-east-1}"
    while :; do
        # shellcheck disable=SC2046,SC2086 # words, as in the unit
        sh "$0" enter "$unit" $(sed -n 's/^ExecStart=\(.*\) \$OPTIONS$/\1/p' "$file") $OPTIONS &
        echo $! >$run/"$unit".service
        wait $! || :
        sleep 0.2
    done
}

# Into a cgroup of the service.
enter() {
    shift 2
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p /sys/fs/cgroup/"$unit"
        echo $$ >/sys/fs/cgroup/"$unit"/cgroup.procs
    fi
    exec "$@"
}

case $verb in
    start | stop | loop) $verb ;;
    enter) enter "$@" ;;
    restart) stop && start ;;
    status) running && echo "$unit runs" || { echo "$unit does not run" && exit 3; } ;;
    boot)
        for file in /etc/systemd/system/multi-user.target.wants/miniecs-*.service; do
            unit=$(basename "$file" .service)
            start
        done
        ;;
esac
