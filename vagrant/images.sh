#!/bin/sh
# The sample images: busybox, web:1 and hungry:1.
#
#   images.sh save FILE        build them from images/, and write them to an archive: what stage.sh does
#   images.sh push REGISTRY    on the manager: put them into its registry, from the stage or built here; once
set -eu
here=$(dirname "$(readlink -f "$0")")
checkout=$(dirname "$here")
images="busybox:latest web:1 hungry:1"
verb=${1:?save or push}
PATH=$checkout/.venv/bin:/usr/local/bin:$PATH

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export MINICONTAINER_ROOT="$temporary/store"

build() {
    cp -R "$checkout/images/busybox" "$temporary/busybox"
    cp /bin/busybox "$temporary/busybox/busybox"
    minicontainer build --quiet --tag busybox:latest "$temporary/busybox" >/dev/null
    minicontainer build --quiet --tag web:1 "$checkout/images/web" >/dev/null
    minicontainer build --quiet --tag hungry:1 "$checkout/images/hungry" >/dev/null
}

case $verb in
    save)
        build
        # shellcheck disable=SC2086 # a list of words
        minicontainer save --output "$2" $images
        ;;
    push)
        registry=$2
        archive=$here/stage/images.tar
        done=/var/lib/miniecs/images.pushed
        is=$(cat "$archive" "$checkout"/images/*/Dockerfile 2>/dev/null | cksum)
        [ "$(cat $done 2>/dev/null)" != "$is" ] || exit 0
        if [ -f "$archive" ]; then minicontainer load --quiet --input "$archive" >/dev/null; else build; fi
        export DOCKER_CONFIG="$temporary/docker"
        key=$(sed -n 's/^aws_access_key_id = //p' "$AWS_SHARED_CREDENTIALS_FILE")
        sed -n 's/^aws_secret_access_key = //p' "$AWS_SHARED_CREDENTIALS_FILE" |
            minicontainer login --plain-http --username "$key" --password-stdin "$registry" >/dev/null
        for image in $images; do
            minicontainer tag "$image" "$registry/$image"
            minicontainer push --plain-http --quiet "$registry/$image" >/dev/null
        done
        echo "$is" >$done
        ;;
esac
