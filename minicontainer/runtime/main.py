"""The entry of `minicontainer-runtime`: seal the interpreter first, while next to nothing is loaded.

Stands above `cli`, which is loaded after it: sealing may start the interpreter a second time, and what was
loaded before is lost then.
"""

import gc
import os
import sys

from minicontainer.values import NoReturn

# The commands that make a process in a container.
_MAKERS = {"create", "run", "exec"}


def main() -> NoReturn:
    gc.disable()  # it lives for milliseconds: 1 ms of collecting what is dropped as a whole at its end
    if _MAKERS.intersection(sys.argv[1:]):
        from minicontainer.runtime import sealing  # 3 ms, and only a process in a container can do harm

        try:
            sealing.seal_interpreter(sys.orig_argv)
        except PermissionError as error:
            what = "a container's root must not reach the interpreter, and a mount that keeps it out cannot be made"
            sys.exit(
                f"minicontainer-runtime: {what} ({error.strerror}); try: as root, or unshare --map-root-user --mount"
            )
    from minicontainer.runtime import cli  # after sealing: see above

    status = cli.main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 128 + 13  # SIGPIPE: who read it had enough
    except OSError as error:
        print(f"minicontainer-runtime: standard output: {error.strerror}", file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # not by way of the interpreter's end: 4 ms of taking every module apart


if __name__ == "__main__":
    main()
