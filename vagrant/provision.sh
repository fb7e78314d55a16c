#!/bin/sh
# Makes a Debian or Ubuntu machine the manager or a worker. Run again, it changes nothing that is right already.
#
#   provision.sh manager ADDRESS
#   provision.sh worker ADDRESS MANAGER_ADDRESS
#
# It needs this checkout in /vagrant (CHECKOUT says otherwise) with vagrant/.credentials in it.
set -eu
role=${1:?role: manager or worker}
address=${2:?the address that the others reach this machine by}
checkout=${CHECKOUT:-/vagrant}
port=8600

[ -f "$checkout/dev" ] || {
    echo "provision: $checkout is empty: the machine was interrupted while it came up; try: vagrant destroy -f && vagrant up" >&2
    exit 1
}
rm -rf /opt/miniecs.new
mkdir -p /opt/miniecs /opt/miniecs.new
cp -R "$checkout/." /opt/miniecs.new/
[ ! -d /opt/miniecs/.venv ] || mv /opt/miniecs/.venv /opt/miniecs.new/.venv
rm -rf /opt/miniecs
mv /opt/miniecs.new /opt/miniecs
/opt/miniecs/dev install

install -d -m 700 /var/lib/miniecs /var/lib/miniecs/server /var/lib/miniecs/agent
case $role in
    manager)
        [ -f /var/lib/miniecs/server/credentials ] ||
            install -m 600 "$checkout/vagrant/.credentials" /var/lib/miniecs/server/credentials
        command="server --data /var/lib/miniecs/server --listen 127.0.0.1:$port --listen $address:$port"
        credentials=/var/lib/miniecs/server/credentials
        ;;
    worker)
        manager=${3:?the address of the manager}
        install -m 600 "$checkout/vagrant/.credentials" /var/lib/miniecs/credentials
        command="agent --endpoint http://$manager:$port --data /var/lib/miniecs/agent --advertise-address $address"
        credentials=/var/lib/miniecs/credentials
        ;;
    *)
        echo "provision: no role \"$role\"; try: manager or worker" >&2
        exit 1
        ;;
esac

unit=/etc/systemd/system/miniecs.service
cat >$unit.new <<UNIT
[Unit]
Description=miniecs $role
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/opt/miniecs/vagrant/delegated.sh /usr/local/bin/miniecs $command
Environment=AWS_SHARED_CREDENTIALS_FILE=$credentials AWS_DEFAULT_REGION=us-east-1
Restart=always
RestartSec=1
KillMode=process
Delegate=yes

[Install]
WantedBy=multi-user.target
UNIT
mv $unit.new $unit
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable miniecs
    systemctl restart miniecs
else
    echo "provision: no systemd runs here; start it by: miniecs $command"
fi
