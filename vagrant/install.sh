#!/bin/sh
# Puts minicontainer, miniecs and aws on a Debian or Ubuntu machine: the code of /vagrant (CHECKOUT says otherwise) into
# /opt/miniecs, its Python packages into /opt/miniecs/.venv, commands into /usr/local/bin. Run again, it changes what changed.
#
#   install.sh                 all of it
#   install.sh dependencies    the Python packages only: what an image of a machine is made with
set -eu
checkout=${CHECKOUT:-/vagrant}
stage=$checkout/vagrant/stage
target=/opt/miniecs
python=$target/.venv/bin/python
say() { echo "install: $*" >&2; }

# --- Python packages -------------------------------------------------------------------------------------------------

dependencies() {
    if [ -f "$stage/installed.txt" ]; then locked=$stage/installed.txt; else locked=$checkout/.ci/requirements.txt; fi
    wanted=$(sha256sum <"$locked" | cut -c 1-16)
    [ "$(cat $target/.venv/installed 2>/dev/null)" != "$wanted" ] || return 0
    if [ -d "$stage/wheels" ] && [ "$(uname -m)" = x86_64 ] && python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        python3 -m venv --clear $target/.venv
        $python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
            --find-links "$stage/wheels" --requirement "$stage/installed.txt"
    else
        say "no wheels are staged for $(uname -m) and $(python3 --version): apt and PyPI are asked, which takes minutes"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -q -y --no-install-recommends python3-venv python3-dev gcc libc6-dev libcap-dev libseccomp2 \
            libnftables1 busybox-static iproute2 ca-certificates curl jq
        python3 -m venv --clear $target/.venv
        $python -m pip install --quiet --disable-pip-version-check --no-cache-dir --use-pep517 --require-hashes \
            --requirement "$checkout/.ci/requirements.txt"
    fi
    echo "$wanted" >$target/.venv/installed
}

# --- the code and its commands ---------------------------------------------------------------------------------------

code() {
    [ -d "$checkout/minicontainer" ] || {
        say "$checkout is empty: the machine was interrupted while it came up; try: vagrant destroy -f $(hostname) && vagrant up $(hostname)"
        exit 1
    }
    for part in minicontainer miniecs images vagrant; do
        rm -rf "$target/$part.new"
        cp -R "$checkout/$part" "$target/$part.new"
        rm -rf "$target/$part.old"
        [ ! -d "$target/$part" ] || mv "$target/$part" "$target/$part.old"
        mv "$target/$part.new" "$target/$part" # who runs an old file keeps it
        rm -rf "$target/$part.old"
    done
    echo $target >"$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/miniecs.pth"
}

commands() {
    command minicontainer minicontainer.cli
    command minicontainer-runtime minicontainer.runtime.main
    command miniecs miniecs.cli
    ln -sfn $target/.venv/bin/aws /usr/local/bin/aws
}

command() {
    printf '#!%s\nimport sys\n\nfrom %s import main\n\nsys.exit(main())\n' $python "$2" >"/usr/local/bin/.$1"
    chmod 755 "/usr/local/bin/.$1"
    mv "/usr/local/bin/.$1" "/usr/local/bin/$1"
}

mkdir -p $target
dependencies
[ "${1:-}" != dependencies ] || exit 0
code
commands
