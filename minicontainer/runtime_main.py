"""The entry of `minicontainer-runtime`: seal the interpreter first, while next to nothing is loaded.

Stands above `runtime_cli`, which is loaded after it: sealing starts the interpreter a second time, and what was loaded
before is lost.
"""

import sys

from minicontainer import sealing

# The commands that make a process in a container.
_MAKERS = {"create", "run", "exec"}


def main() -> int:
    if _MAKERS.intersection(sys.argv[1:]):
        sealing.seal_interpreter(sys.orig_argv)
    from minicontainer import runtime_cli  # after sealing: see above

    return runtime_cli.main()


if __name__ == "__main__":
    sys.exit(main())
