"""Errors a user can act on: one line that says what failed, on which thing, and what to try.

The ground of everything; imports nothing of ours. `main` of each command line catches `Error` and `OSError`; nothing
else does.
"""

TOOL_FAILED = 125  # the tool itself failed: the convention of docker and podman
NOT_EXECUTABLE = 126  # the command was found and could not be executed
NOT_FOUND = 127  # the command was not found


class Error(Exception):
    """What, on which thing, and what to try. `exit_code` is the status of the command that meets it."""

    exit_code = TOOL_FAILED

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled whole, not by calling `__init__` again, which would put the text into the text."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[Error], arguments: tuple[object, ...], attributes: dict[str, object]) -> Error:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class CommandNotFound(Error):
    exit_code = NOT_FOUND


class CommandNotExecutable(Error):
    exit_code = NOT_EXECUTABLE


class ImageNotFound(Error):
    def __init__(self, reference: str) -> None:
        super().__init__(f"image {reference} not found; try: minicontainer pull {reference}")


class ContainerNotFound(Error):
    exit_code = 1

    def __init__(self, name: str) -> None:
        super().__init__(f"no container {name}; try: minicontainer ps --all")


class NameInUse(Error):
    def __init__(self, name: str, container_id: str) -> None:
        super().__init__(f"the name {name} is in use by container {container_id}; try: minicontainer rm {container_id}")
