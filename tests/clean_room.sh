#!/bin/sh
# Proves the README's promise: on a minimal Debian 12 with nothing installed, the two commands are all the set-up there is.
#
#   sudo tests/clean_room.sh [--suite bookworm] [--copy FILE]... [COMMAND]
#
# It makes a minimal root file system (mmdebstrap), enters it as a machine of its own (mount, process and host name
# namespaces, pivot_root: in a chroot the kernel makes no user namespace), copies the tracked files of this checkout to
# /root/checkout, and runs COMMAND there: by default the demo twice, then the tests. Then it says which files COMMAND left
# outside the checkout and apt's own. --copy takes a file of this computer along (a mirror's or a proxy's settings, say).
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)

if [ "${1:-}" = --inside ]; then
    new_root=$2
    shift 2
    mount --make-rprivate /
    mount --rbind "$new_root" "$new_root"
    cd "$new_root"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    mkdir -p .old
    pivot_root . .old
    cd /
    umount -l /.old
    rmdir /.old
    hostname clean-room
    cd /root/checkout
    exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" CI="${CI:-}" sh -c "$*"
fi

suite=bookworm
copies=
while [ $# -gt 0 ]; do
    case $1 in
        --suite) suite=$2 && shift 2 ;;
        --copy) copies="$copies $2" && shift 2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || set -- './dev demo && ./dev demo && ./dev test'

room=$(mktemp -d /var/tmp/clean-room.XXXXXX)
trap 'rm -rf --one-file-system "$room"' EXIT INT TERM
if [ -f "/var/tmp/clean-room.$suite.tar" ]; then
    tar -C "$room" -xf "/var/tmp/clean-room.$suite.tar" --exclude './dev/*'
else
    mmdebstrap --quiet --variant=minbase "$suite" "$room" # what the debootstrap of any Debian derivative gives
fi
mkdir -p "$room/root/checkout" "$room/etc"
(cd "$here" && git ls-files -z | tar --null -T - -cf -) | tar -C "$room/root/checkout" -xf -
for file in /etc/resolv.conf /etc/hosts $copies; do
    mkdir -p "$room$(dirname "$file")"
    cp -RL "$file" "$room$file"
done
list() {
    (cd "$room" && find . -xdev \( -path ./root/checkout -o -path ./proc -o -path ./sys -o -path ./dev -o -path ./run \
        -o -path ./tmp -o -path ./usr -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache \
        -o -path ./var/log -o -path ./etc -o -path ./var/lib/systemd -o -path ./var/lib/python -o -path ./var/lib/gems \) \
        -prune -o -print | sort)
}
list >"$room/root/checkout/.before"
status=0
unshare --mount --pid --fork --kill-child --uts sh "$0" --inside "$room" "$*" || status=$?
list >"$room/root/checkout/.after"
echo "clean room: exit status $status; left outside the checkout:"
diff "$room/root/checkout/.before" "$room/root/checkout/.after" | sed -n 's/^> /  /p'
exit "$status"
