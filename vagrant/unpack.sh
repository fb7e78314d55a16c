#!/bin/sh
# What Vagrant does on a machine before provision.sh: unpacks the checkout that was uploaded, into /vagrant.
#
#   unpack.sh NAME
set -eu
name=${1:?the name of this machine}
archive=/tmp/checkout.tar
[ -s $archive ] || {
    echo "$name: the checkout was not uploaded; try: vagrant provision $name, or vagrant destroy -f $name && vagrant up $name" >&2
    exit 1
}
is=$(sha256sum <$archive)
if [ "$(cat /vagrant/.unpacked 2>/dev/null || :)" != "$is" ]; then
    rm -rf /vagrant.new
    mkdir -m 755 /vagrant.new
    tar -C /vagrant.new -xf $archive --no-same-owner
    printf '%s' "$is" >/vagrant.new/.unpacked
    rm -rf /vagrant
    mv /vagrant.new /vagrant
fi
rm -f $archive # secrets are in it
if [ -f /tmp/wheels.tar ]; then # only where they are not installed already
    tar -C /vagrant -xf /tmp/wheels.tar --no-same-owner
    rm /tmp/wheels.tar
fi
