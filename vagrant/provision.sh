#!/bin/sh
# Makes a Debian or Ubuntu machine the manager or a worker of a cluster. Run again, it changes nothing that is right already.
#
#   provision.sh manager NAME ADDRESS [NAME:ADDRESS]...
#   provision.sh worker NAME ADDRESS MANAGER_ADDRESS [NAME:ADDRESS]...
#
# ADDRESS is where the others reach this machine; each NAME:ADDRESS is a machine that this one shall know by its name.
# It needs this checkout in /vagrant (CHECKOUT says otherwise) and a join token in JOIN_TOKEN or in vagrant/.join-token.
# AGENT_OPTIONS are for the worker's agent, such as "--cpu 2048": without, it offers what the machine has. PATIENCE is for
# how many seconds a manager that does not answer, or refuses, may be one that is being made: 30.
set -eu
usage="provision: usage: provision.sh manager|worker NAME ADDRESS [MANAGER_ADDRESS] [NAME:ADDRESS]..."
[ $# -ge 3 ] || { echo "$usage" >&2 && exit 2; }
role=$1 name=$2 address=$3
shift 3
checkout=${CHECKOUT:-/vagrant}
port=8600
die() {
    echo "provision: $name: $*" >&2
    exit 1
}

case $role in
    manager) manager=$address ;;
    worker)
        manager=${1:?$usage}
        shift
        ;;
    *) die "no role \"$role\"; try: manager or worker" ;;
esac
[ "$(id -u)" = 0 ] || die "needs root; try: sudo"
[ -d "$checkout/minicontainer" ] || die \
    "$checkout is empty: the machine was interrupted while it came up; try: vagrant destroy -f $name && vagrant up $name"
ip -4 -oneline address | grep -qF " $address/" || die \
    "$address is on no interface of this machine; it has $(ip -4 -oneline address | awk '{print $4}' | paste -sd ' ');" \
    "try: vagrant reload $name"
token=${JOIN_TOKEN:-$(cat "$checkout/vagrant/.join-token" 2>/dev/null || :)}
[ -n "$token" ] || die "no join token; try: JOIN_TOKEN=\$(miniecs token generate)"

# --- names -----------------------------------------------------------------------------------------------------------

# Some networks' own name service gives another address of the same machine; and Debian's 127.0.1.1 NAME is of no use to
# others. So the names stand in /etc/hosts, between two marks.
names() {
    {
        sed -e '/^# miniecs: begin/,/^# miniecs: end/d' -e "/^127\.0\.1\.1[[:space:]].*\b$name\b/d" /etc/hosts
        echo "# miniecs: begin"
        echo "$address $name"
        for pair; do
            [ "${pair%%:*}" = "$name" ] || echo "${pair#*:} ${pair%%:*}"
        done
        echo "# miniecs: end"
    } >/etc/hosts.new
    cmp -s /etc/hosts.new /etc/hosts || cat /etc/hosts.new >/etc/hosts # in place: it may be a mount
    rm /etc/hosts.new
}

# --- services --------------------------------------------------------------------------------------------------------

# A file of a service as it shall be, from stdin; marks the service for a restart if it was not.
put() {
    cat >"$1.new"
    if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1" && changed=yes; fi
}

service() {
    unit=miniecs-$1
    install -d -m 700 /etc/miniecs /var/lib/miniecs
    put "/etc/systemd/system/$unit.service" <"$checkout/vagrant/$unit.service"
    put "/etc/miniecs/$1.conf" <<CONF
# Written by provision.sh; read by $unit.service.
OPTIONS="$2"
AWS_DEFAULT_REGION=us-east-1
CONF
    put "/etc/miniecs/$1.code" <<CODE
$(cd /opt/miniecs && find minicontainer miniecs -name '*.py' -exec cksum {} + | sort -k 3 | cksum)
CODE
    if [ -d /run/systemd/system ]; then
        [ -z "$changed" ] || systemctl daemon-reload
        systemctl --quiet enable "$unit"
        [ -z "$changed" ] || systemctl stop "$unit"
        since=$(date +%s.%6N)
        systemctl start "$unit"
    else
        mkdir -p /etc/systemd/system/multi-user.target.wants
        ln -sf "../$unit.service" "/etc/systemd/system/multi-user.target.wants/$unit.service"
        printf '#!/bin/sh\n/opt/miniecs/vagrant/supervise.sh boot\n' >/etc/rc.local
        chmod 755 /etc/rc.local
        [ -z "$changed" ] || /opt/miniecs/vagrant/supervise.sh stop "$unit"
        since=$(wc -c 2>/dev/null </var/log/"$unit".log || echo 0)
        /opt/miniecs/vagrant/supervise.sh start "$unit"
    fi
}

# What the service has said since it was started here.
said() {
    if [ -d /run/systemd/system ]; then
        journalctl --quiet --identifier miniecs --unit "$unit" --since "@$since" --output cat
    else
        tail -c "+$((since + 1))" /var/log/"$unit".log 2>/dev/null || : # it is made by the service
    fi
}

# --- the two roles ---------------------------------------------------------------------------------------------------

manager() {
    data=/var/lib/miniecs/server
    # On every address: a hypervisor forwards the port of its computer to the first interface, not to the lab's.
    service server "--data $data --listen 0.0.0.0:$port"
    # The token is renewed, so that provisioning again lets workers join again. The first time the server has to start.
    export AWS_SHARED_CREDENTIALS_FILE=$data/credentials AWS_ENDPOINT_URL=http://127.0.0.1:$port
    tries=0
    until miniecs token create --ttl 24h --token "$token" >/dev/null 2>/tmp/provision; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || die "the control plane does not answer: $(cat /tmp/provision); try: journalctl -u miniecs-server"
        sleep 0.3
    done
    rm -f /tmp/provision
    "$checkout/vagrant/images.sh" push "$address:$port"
    # Who is root on the manager drives the cluster, without a word about keys.
    cat >/etc/profile.d/miniecs.sh <<PROFILE
export AWS_ENDPOINT_URL=http://$address:$port AWS_DEFAULT_REGION=us-east-1 AWS_PAGER=
export AWS_SHARED_CREDENTIALS_FILE=$data/credentials
PROFILE
}

worker() {
    install -d -m 700 /etc/miniecs
    (umask 077 && echo "$token" >/etc/miniecs/join-token)
    [ -s /var/lib/miniecs/agent/credentials ] || changed=yes # the agent shall ask with this token
    service agent "--endpoint http://$manager:$port --data /var/lib/miniecs/agent --advertise-address $address \
--instance-name $name --join-token-file /etc/miniecs/join-token${AGENT_OPTIONS:+ $AGENT_OPTIONS}"
    [ -z "$changed" ] || membership
}

# Waits for what the manager says to the agent: one on a slow machine takes a minute until it asks. An obstacle has to
# last: a manager that is made at the same time answers a little later, and knows the token a moment after that.
membership() {
    started='' met='' && now
    while [ $((now - ${started:=$now})) -lt 180 ]; do
        why=$(said | awk '/session begins/ { member = 1 } !/ INFO / { why = $0 } END { print member ? "member" : why }')
        case $why in
            member) return ;;
            "") met= ;;
            *) [ $((now - ${met:=$now})) -lt "${PATIENCE:-30}" ] || break ;;
        esac
        sleep 0.5
        now
    done
    rm -f /etc/miniecs/agent.code # so that provisioning again starts the agent again, and waits again
    case $why in
        "") die "its agent says nothing; try: journalctl -u miniecs-agent, or: tail /var/log/miniecs-agent.log" ;;
        *"waits for the control plane"*) became="joins as soon as $manager:$port answers: ${why##*obstacle=}" ;;
        *) die "${why#*WARNING }" ;;
    esac
}

# Seconds since the machine booted: a clock that is set meanwhile does not count. As a variable, since a process costs 0.1 s
# on a machine without hardware.
now() { IFS=. read -r now _ </proc/uptime; }

changed='' became="is a $role at $address"
names "$@"
CHECKOUT=$checkout "$checkout/vagrant/install.sh"
"$role"
sync # so that a power cut finds it whole
echo "provision: $name $became"
