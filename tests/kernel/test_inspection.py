"""inspection: records that lie, halves that the killed left, names that point nowhere: the next look mends them."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicontainer import containers, engine, files, inspection
from minicontainer.containers import Container, Home, Options
from minicontainer.errors import ContainerNotFound, Error
from tests import images


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with images.busybox_home(tmp_path / "data") as made:
        yield made


def create(home: Home, *command: str, name: str = "", remove: bool = False) -> Container:
    options = Options(image="busybox", command=command or ("sleep", "60"), name=name, network="none", remove=remove)
    return engine.create(home, options)


def orphan(home: Home, remove: bool = False) -> Container:
    """A container whose supervisor was killed."""
    one = engine.start(home, create(home, remove=remove).id)
    os.kill(one.supervisor_pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while containers.alive(one) and time.monotonic() < deadline:
        time.sleep(0.01)
    return one


@pytest.mark.kernel("overlay")
def test_an_orphan_is_mended_once_and_whoever_looks_sees_the_same(home: Home) -> None:
    one = orphan(home)
    first = inspection.inspect(home, one.id)
    assert (first.status, first.exit_code, first.error) == ("exited", 137, "the supervisor was killed")
    assert inspection.inspect(home, one.id) == first
    assert inspection.list_containers(home) == [first]
    assert engine.wait(home, one.id) == 137


@pytest.mark.kernel("overlay")
def test_many_look_at_an_orphan_at_once(home: Home) -> None:
    one = orphan(home)
    children = []
    for _ in range(5):
        if (child := os.fork()) == 0:
            os._exit(0 if inspection.inspect(home, one.id).exit_code == 137 else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5


@pytest.mark.kernel("overlay")
def test_an_orphan_that_was_to_be_removed_is_removed(home: Home) -> None:
    one = orphan(home, remove=True)
    inspection.inspect(home, one.id)
    with pytest.raises(ContainerNotFound):
        inspection.inspect(home, one.id)
    assert [os.listdir(f"{home.data}/{name}") for name in ("containers", "names", "ids")] == [[], [], []]


@pytest.mark.kernel("overlay")
def test_a_status_that_was_said_before_the_kill_is_believed(home: Home) -> None:
    one = orphan(home)
    with open(f"{one.bundle}/exit", "ab") as file:
        file.write(b"5\n")
    mended = inspection.inspect(home, one.id)
    assert (mended.exit_code, mended.error) == (5, "")


@pytest.mark.kernel("overlay")
def test_another_process_with_the_same_number_is_not_taken_for_the_supervisor(home: Home) -> None:
    one = orphan(home)
    lie = one._replace(supervisor_pid=os.getpid(), supervisor_start_time=1)
    files.write(f"{one.bundle}/container.json", json.dumps(lie.to_json()).encode())
    assert inspection.inspect(home, one.id).status == "exited"
    assert os.getpid()  # and nobody has killed us


@pytest.mark.kernel("overlay")
def test_half_made_containers_and_names_that_point_nowhere_go(home: Home) -> None:
    kept = create(home, name="kept")
    half = f"{home.data}/containers/{'a' * 64}"
    os.makedirs(f"{half}/upper/deep")
    os.symlink("a" * 64, f"{home.data}/names/half")
    os.symlink("b" * 64, f"{home.data}/names/gone")
    os.symlink("b" * 64, f"{home.data}/ids/77")
    os.makedirs(f"{home.data}/removed/{'c' * 64}/upper")
    assert [one.id for one in inspection.list_containers(home)] == [kept.id]
    inspection.repair(home)
    assert os.listdir(f"{home.data}/containers") == [kept.id]
    assert os.listdir(f"{home.data}/names") == ["kept"]
    assert len(os.listdir(f"{home.data}/ids")) == 1
    assert not os.path.exists(f"{home.data}/removed")


@pytest.mark.kernel("overlay")
@pytest.mark.parametrize("left", [b"", b'{"id": ', b"\0" * 300])
def test_a_record_that_a_power_cut_left_broken_is_one_of_a_container_that_is_gone(home: Home, left: bytes) -> None:
    kept, cut = create(home, name="kept"), create(home, name="cut")
    Path(home.container(cut.id), "container.json").write_bytes(left)
    assert [one.id for one in inspection.list_containers(home)] == [kept.id]
    inspection.repair(home)
    assert os.listdir(f"{home.data}/containers") == [kept.id]
    assert create(home, name="cut").name == "cut"


@pytest.mark.kernel("overlay")
def test_a_container_is_found_by_name_id_or_an_unambiguous_beginning(home: Home) -> None:
    one = create(home, name="web")
    for name in ("web", one.id, one.id[:12], one.id[:4]):
        assert inspection.inspect(home, name).id == one.id
    for name in ("we", "", "../names/web", "f" * 65):
        with pytest.raises(ContainerNotFound):
            inspection.inspect(home, name)
    os.mkdir(f"{home.data}/containers/{one.id[:4]}{'0' * 60}")
    with pytest.raises(Error, match="is the beginning of 2 container ids; try: more of its characters"):
        inspection.inspect(home, one.id[:4])


@pytest.mark.kernel("overlay")
def test_the_youngest_stands_first(home: Home) -> None:
    made = [create(home, name=name).name for name in ("first", "second", "third")]
    assert [one.name for one in inspection.list_containers(home)] == made[::-1]


@pytest.mark.kernel("overlay")
def test_of_many_who_want_a_name_one_gets_it_and_all_get_other_ids(home: Home) -> None:
    children = []
    for number in range(6):
        if (child := os.fork()) == 0:
            try:
                create(home, name="wanted" if number < 4 else f"own{number}")
            except Error:
                os._exit(3)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 0, 0, 3, 3, 3]
    found = inspection.list_containers(home)
    assert sorted(one.name for one in found) == ["own4", "own5", "wanted"]
    assert len({one.id_base for one in found}) == 3
    assert len(os.listdir(f"{home.data}/containers")) == 3
