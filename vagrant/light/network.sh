#!/bin/sh
# Gives a light machine what its kernel's command line says: lab.address=A.B.C.D/LENGTH lab.name=NAME lab.key=KEY. Neither
# udev nor a network daemon is asked: under user-mode-linux they take tens of seconds.
set -eu
said() { tr ' ' '\n' </proc/cmdline | sed -n "s/^lab\.$1=//p"; }
hostname "$(said name)"
hostname >/etc/hostname
install -d -m 700 /root/.ssh
echo "ssh-ed25519 $(said key)" >/root/.ssh/authorized_keys
modprobe -q virtio_net || : # QEMU's; built in, or not there, elsewhere
tries=0
until device=$(find /sys/class/net/ -name 'eth0' -o -name 'vec0') && [ -n "$device" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || exit 1
    sleep 0.1
done
device=${device##*/}
ip link set lo up
ip address replace "$(said address)" dev "$device"
ip link set "$device" up
