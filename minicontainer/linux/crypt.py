"""crypt: what a password becomes, by the C library's own function; bcrypt is one of its methods.

On the ground; `registry/users` asks it. Ruled by crypt(3) and crypt(5).
"""

import ctypes

from minicontainer.errors import Error

LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")  # Debian's, and Fedora's


def crypt(phrase: bytes, setting: bytes) -> bytes:
    """crypt(3): the hash of a password, by the method and salt that `setting`, or an earlier hash, begins with.

    Raises:
        Error: the library is not there, or does not know the method.
    """
    found = _library().crypt(phrase, setting)
    if not found or found.startswith(b"*"):
        raise Error(f"this system's libcrypt cannot make a hash like {setting[:4].decode(errors='replace')}")
    return bytes(found)


def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.crypt.argtypes, library.crypt.restype = (ctypes.c_char_p, ctypes.c_char_p), ctypes.c_char_p
        return library
    raise Error("bcrypt needs libcrypt; try: apt-get install libcrypt1")
