"""nftables: a batch of commands to the kernel's packet filter, through libnftables in this process (no fork of `nft`).

On the ground, beside `syscalls`; `network` is who calls it. Ruled by libnftables(3), libnftables-json(5), nft(8).
"""

import ctypes

from minicontainer import json_documents
from minicontainer.errors import Error
from minicontainer.values import Any

OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
LIBRARIES = ("libnftables.so.1",)


class Refused(Error):
    """The kernel or the grammar refused a batch; nothing of it was done: a batch is one transaction."""

    def __init__(self, commands: str, said: str) -> None:
        first = next((line for line in said.splitlines() if "Error" in line), said.strip() or "no reason given")
        super().__init__(f"nftables refused {_headline(commands)!r}: {first.split('Error: ', 1)[-1]}")
        self.said = said

    @property
    def exists(self) -> bool:
        return "File exists" in self.said

    @property
    def absent(self) -> bool:
        return "No such file or directory" in self.said


class Unavailable(Error):
    """The library or the kernel's part is missing."""


def run(commands: str) -> None:
    """Do all of `commands` (the language of nft(8)) in one transaction, or raise `Refused` and do none of it."""
    _call(commands, 0)


def query(command: str) -> list[dict[str, Any]]:
    """The objects that a `list` command answers: libnftables-json(5) without the metainfo."""
    objects: list[dict[str, Any]] = json_documents.loads(_call(command, OUTPUT_JSON).encode())["nftables"]
    return [item for item in objects if "metainfo" not in item]


def _call(commands: str, output_flags: int) -> str:
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise Unavailable("libnftables gave no context: this kernel may lack nf_tables; try: modprobe nf_tables")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_output_set_flags(context, output_flags)
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        if failed:
            said = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace")
            if (
                "not supported" in said or "cache initialization failed: Invalid" in said
            ):  # no family `ip`; no nf_tables
                raise Unavailable(
                    f"this kernel cannot do {_headline(commands)!r}: {said.strip().splitlines()[0]}; "
                    "try: modprobe nf_tables nft_chain_nat nft_masq nft_fib_ipv4 nft_ct, or --network host"
                )
            raise Refused(commands, said)
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        for function in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer, library.nft_ctx_free,
                         library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):  # fmt: skip
            function.argtypes = [ctypes.c_void_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        return library
    raise Unavailable(
        "libnftables is not installed, and published ports and the bridge need it; "
        "try: apt-get install libnftables1, or --network host, or --network none"
    )


def _headline(commands: str) -> str:
    line = next((line.strip() for line in commands.splitlines() if line.strip()), "")
    return line if len(line) < 100 else f"{line[:97]}..."
