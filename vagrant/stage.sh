#!/bin/sh
# Gathers in vagrant/stage what a machine needs and shall not fetch when it is provisioned: wheels of the locked Python
# packages, and the sample images. Quick when nothing has changed.
#
#   stage.sh        after `./dev setup`, on Debian 12 (its Python makes wheels for the machines' own)
#   stage.sh key    print what the stage depends on, as one word
#
# Without a stage (on macOS or Windows, say) the machines install the same versions from apt and PyPI: install.sh.
set -eu
here=$(dirname "$(readlink -f "$0")")
checkout=$(dirname "$here")
stage=$here/stage
# What machines run of the lock: the product and the client `aws`, without tools of development.
packages="minicontainer[fast,clients]"

key=$(cat "$checkout/.ci/requirements.txt" "$checkout/pyproject.toml" "$0" /bin/busybox "$checkout"/images/*/Dockerfile | sha256sum | cut -c 1-16)
[ "${1:-}" != key ] || { echo "$key"; exit; }
[ "$(cat "$stage/key" 2>/dev/null)" != "$key" ] || exit 0
python=$checkout/.venv/bin/python
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "stage: the machines have Python 3.11, this computer has another: they will fetch packages themselves" >&2
    exit 0
}
rm -rf "$stage"
mkdir -p "$stage"
"$python" - "$packages" "$checkout" >"$stage/requirements.txt" <<'PYTHON'
"""The locked requirements, reduced to what the extras on the command line need."""
import importlib.metadata as metadata
import pathlib
import re
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

wanted, todo = set(), [Requirement(sys.argv[1])]
while todo:
    one = todo.pop()
    for extra in ("", *one.extras):
        if (one.name, extra) not in wanted:
            wanted.add((one.name, extra))
            for text in metadata.requires(one.name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
names = {canonicalize_name(name) for name, _ in wanted}
lock = pathlib.Path(sys.argv[2], ".ci/requirements.txt").read_text()
for entry in re.split(r"\n(?=\S)", lock):
    found = re.match(r"([\w.-]+)==", entry)
    if found and canonicalize_name(found[1]) in names:
        print(entry)
PYTHON
"$python" -m pip wheel --quiet --no-cache-dir --disable-pip-version-check --require-hashes --no-deps --use-pep517 \
    --requirement "$stage/requirements.txt" --wheel-dir "$stage/wheels"
sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\) .*/\1/p' "$stage/requirements.txt" >"$stage/installed.txt"
[ "$(id -u)" != 0 ] || "$here/images.sh" save "$stage/images.tar" # others build them on the manager
echo "$key" >"$stage/key"
