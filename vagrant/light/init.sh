#!/bin/sh
# Process 1 of a light machine: mounts, cgroup v2 with every controller, the address, sshd, and what provisioning left in
# /etc/rc.local. A power cut needs no more; a shutdown is asked for by `poweroff -f`. Ruled by init(1) and cgroups(7).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
mountpoint -q /dev || mount -n -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -n -t devpts devpts /dev/pts
mount -n -t tmpfs tmpfs /dev/shm
mount -n -t tmpfs -o mode=755 tmpfs /run
mount -n -t tmpfs tmpfs /tmp
mkdir -p /run/lock /run/sshd
# A cgroup that holds processes can give no controllers to cgroups below it, so everything leaves the root: cgroups(7).
mount -n -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/init
echo 1 >/sys/fs/cgroup/init/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
/usr/local/sbin/lab-network
/usr/sbin/sshd -D &
[ ! -x /etc/rc.local ] || /etc/rc.local &
while :; do wait; sleep 60; done
