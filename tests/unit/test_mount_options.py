"""The words of a mount's options, sorted by what they are for."""

import pytest

from minicontainer.linux.flags import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_RDONLY, MS_REC, MS_SHARED
from minicontainer.runtime.mount_options import WITHOUT_EFFECT, parse_options


def test_each_word_goes_where_it_belongs() -> None:
    parsed = parse_options(("rbind", "ro", "rnoexec", "rshared", "size=1k", "tmpcopyup"))
    assert (parsed.set, parsed.recursive_set) == (MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOEXEC)
    assert parsed.propagation == (MS_SHARED | MS_REC,)
    assert (parsed.rbind, parsed.bind, parsed.tmpcopyup) == (True, False, True)
    assert parsed.data == ("size=1k",)


@pytest.mark.parametrize("word", sorted(WITHOUT_EFFECT | {"defaults"}))
def test_what_is_so_anyway_is_no_data_of_the_file_system(word: str) -> None:
    assert parse_options((word,)) == parse_options(())


def test_the_last_word_wins() -> None:
    assert parse_options(("ro", "rw")).set == 0
    assert parse_options(("rw", "ro")).clear == 0
