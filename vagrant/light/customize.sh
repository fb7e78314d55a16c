#!/bin/sh
# mmdebstrap's hook: makes the tree of a bare Debian one of a light machine. customize.sh ROOT VAGRANT_DIRECTORY
# What the machine needs of Python is installed by the provisioner's own install.sh, so that `lab up` has not to wait for it.
set -eu
root=$1 here=$2
install -m 755 "$here/light/init.sh" "$root/usr/local/sbin/lab-init"
install -m 755 "$here/light/network.sh" "$root/usr/local/sbin/lab-network"
printf 'UseDNS no\nUsePAM no\nGSSAPIAuthentication no\nPermitRootLogin prohibit-password\n' \
    >"$root/etc/ssh/sshd_config.d/lab.conf"
echo '/dev/root / auto defaults 0 0' >"$root/etc/fstab"
# Where process 1 is systemd, it calls lab-network before sshd.
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
cat >"$root/etc/systemd/system/lab-network.service" <<'UNIT'
[Unit]
Description=Address, name and key from the kernel's command line
ConditionKernelCommandLine=lab.address
DefaultDependencies=no
After=systemd-remount-fs.service
Before=network-pre.target network.target ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-network

[Install]
WantedBy=multi-user.target
UNIT
ln -sf ../lab-network.service "$root/etc/systemd/system/multi-user.target.wants/lab-network.service"

# Of the user-mode kernel's modules, what containers need, and what the exercises try: all of them are 105 MiB.
wanted="overlay veth bridge br_netfilter dummy macvlan vxlan iptable_nat iptable_filter iptable_raw ipt_REJECT
    xt_addrtype xt_comment xt_conntrack xt_MASQUERADE xt_multiport xt_nat xt_tcpudp nf_conntrack_netlink"
for modules in /usr/lib/uml/modules/*; do
    release=${modules##*/}
    mkdir -p "$root/lib/modules/$release"
    cp "$modules"/modules.* "$root/lib/modules/$release"
    # A line of modules.dep is a module, a colon, and all that it needs: modules.dep(5).
    for name in $wanted; do grep "/$name.ko:" "$modules/modules.dep"; done | tr ': ' '\n\n' | grep . | sort -u | while
        read -r module
    do
        mkdir -p "$root/lib/modules/$release/${module%/*}"
        cp "$modules/$module" "$root/lib/modules/$release/$module"
    done
done

mkdir -p "$root/vagrant/vagrant/stage" "$root/vagrant/.ci"
cp -R "$here/install.sh" "$here/supervise.sh" "$here/delegated.sh" "$root/vagrant/vagrant"
cp -R "$here/stage/." "$root/vagrant/vagrant/stage"
chroot "$root" /vagrant/vagrant/install.sh dependencies
rm -rf "$root/vagrant" "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/cache/apt/*
