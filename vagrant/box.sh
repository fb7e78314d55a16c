#!/bin/sh
# Makes the lab's own box for libvirt, amd64, from Debian 12's packages: for whoever cannot fetch one, and for the tests.
#
#   sudo vagrant/box.sh lab.box && cd vagrant && LAB_BOX=../lab.box vagrant up --provider libvirt
#
# No loop device, no mount: mmdebstrap makes the tree, mke2fs copies it into a file system, and GRUB stands before that.
# The key and the password of the user `vagrant` are Vagrant's well-known ones; `vagrant up` replaces the key.
set -eu
here=$(dirname "$(readlink -f "$0")")
out=${1:?usage: box.sh FILE.box}
mebibytes=4096
die() {
    echo "box: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || die "needs root, to keep the owners of files; try: sudo $0 $out"
for program in mmdebstrap:mmdebstrap mke2fs:e2fsprogs sfdisk:fdisk qemu-img:qemu-utils grub-mkimage:grub-common; do
    command -v "${program%:*}" >/dev/null || die "needs ${program%:*}; try: sudo apt-get install ${program#*:}"
done
[ -f /usr/lib/grub/i386-pc/boot.img ] || die "needs GRUB's boot sector; try: sudo apt-get install grub-pc-bin"
key=$(find /usr/share /opt/vagrant -path '*keys/vagrant.pub' 2>/dev/null | head -n 1)
[ -n "$key" ] || die "needs Vagrant's public key; try: sudo apt-get install vagrant"

work=$(mktemp -d /var/tmp/box.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM
root=$work/root

# --- the tree --------------------------------------------------------------------------------------------------------

system=systemd,systemd-sysv,dbus,udev,kmod,netbase,ca-certificates,linux-image-cloud-amd64,initramfs-tools,zstd
vagrant=openssh-server,sudo
lab=python3,python3-venv,iproute2,iputils-ping,procps,curl,jq,busybox-static,libseccomp2,libnftables1,libcap2-bin
# What these boxes boot from is known, so the initrd holds three modules, and is small.
# shellcheck disable=SC2016 # $1 is mmdebstrap's
mmdebstrap --quiet --variant=minbase --include="$system,$vagrant,$lab" \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook='printf "MODULES=list\nCOMPRESS=zstd\n" >"$1/etc/initramfs-tools/conf.d/box"' \
    --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"' \
    bookworm "$root"

# The user that Vagrant expects of every box.
chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo vagrant:vagrant | chroot "$root" chpasswd
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/vagrant"
keys=$(chroot "$root" sh -c 'echo ~vagrant/.ssh')
install -d -m 700 "$root$keys"
install -m 600 "$key" "$root$keys/authorized_keys"
chroot "$root" chown -R vagrant:vagrant "$keys"
printf 'UseDNS no\nGSSAPIAuthentication no\n' >"$root/etc/ssh/sshd_config.d/box.conf"

# The first interface asks by DHCP; Vagrant writes a file like this for each further one.
cat >"$root/etc/systemd/network/90-dhcp.network" <<'TEXT'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
ClientIdentifier=mac
TEXT
chroot "$root" systemctl --quiet enable systemd-networkd ssh
chroot "$root" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer

# The Python packages that were staged: a machine then needs no network, and is provisioned in seconds.
if [ -d "$here/stage/wheels" ]; then
    mkdir -p "$root/vagrant/vagrant"
    cp -R "$here/install.sh" "$here/stage" "$root/vagrant/vagrant"
    env -i PATH="$PATH" HOME=/root chroot "$root" /vagrant/vagrant/install.sh dependencies
    rm -rf "$root/vagrant"
fi
echo 'LABEL=lab / ext4 defaults 0 1' >"$root/etc/fstab"
: >"$root/etc/machine-id" # each machine makes its own
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/etc/systemd/system/ssh-keys.service" <<'TEXT'
[Unit]
Description=Host keys of this machine's own
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=ssh.service
TEXT
chroot "$root" systemctl --quiet enable ssh-keys
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*

# --- the disk: boot sector | GRUB | the file system, from 1 MiB on -----------------------------------------------------

disk=$work/disk
truncate -s ${mebibytes}M "$disk"
printf '2048,,L,*\n' | sfdisk --quiet "$disk"
# GRUB 2.06 reads neither of the two features that are switched off.
mke2fs -q -t ext4 -L lab -d "$root" -O ^metadata_csum_seed,^orphan_file \
    -E offset=1048576,lazy_itable_init=1,lazy_journal_init=1 "$disk" $((mebibytes - 1))M 2>"$work/said" || die "mke2fs: $(cat "$work/said")"
cat >"$work/grub.cfg" <<'TEXT'
search --label lab --set=root
linux /vmlinuz root=LABEL=lab rw net.ifnames=0 quiet console=tty0 console=ttyS0
initrd /initrd.img
boot
TEXT
grub-mkimage --format i386-pc --config "$work/grub.cfg" --prefix /boot/grub --output "$work/core.img" \
    biosdisk part_msdos ext2 search search_label linux boot
[ "$(stat -c %s "$work/core.img")" -lt $((2047 * 512)) ] || die "GRUB is too large for the gap before the file system"
dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none

# --- the box ---------------------------------------------------------------------------------------------------------

qemu-img convert -O qcow2 -c -o compression_type=zstd "$disk" "$work/box.img"
printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %d}\n' $((mebibytes / 1024)) >"$work/metadata.json"
echo 'Vagrant.configure("2") { |_config| }' >"$work/Vagrantfile"
tar -C "$work" -cf "$work/box" metadata.json Vagrantfile box.img
cp "$work/box" "$out.new"
mv "$out.new" "$out"
echo "box: $out, $(du -h "$out" | cut -f 1)" >&2
