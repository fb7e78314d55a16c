#!/bin/sh
# Process 1 of a user-mode-linux machine whose world is pure cgroup v2: runs the command in $1's file, prints its status,
# powers off. The root is an overlay over the computer's own files, so that nothing is written there; TMPDIR is on an
# ext4 of its own, since tmpfs has idmapped mounts only from Linux 6.3 on.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -n -t proc proc /proc
argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }
modules=/usr/lib/uml/modules
insmod "$modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
mount -n -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -n -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root || exit
mkdir -p mnt/old mnt/disk
mount -n --move /proc proc
mount -n -t sysfs sysfs sys
mount -n -t securityfs securityfs sys/kernel/security
mount -n -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -n -t devpts devpts dev/pts
mount -n -t tmpfs tmpfs dev/shm
mount -n -t tmpfs tmpfs run
mount -n -t ext4 /dev/ubda mnt/disk
mount -n -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . mnt/old
mkdir -p /lib/modules
mount -n --bind "/mnt/old$modules" /lib/modules
modprobe -a bridge veth tun
ip link set lo up
cd "$(argument directory)" || exit
[ "$(argument first)" != systemd ] || . tests/systemd_init.sh
TMPDIR=/mnt/disk sh "/mnt/old$(argument command)" </dev/null
echo "exit status $?"
echo o >/proc/sysrq-trigger
sleep 10
