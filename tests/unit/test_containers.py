"""containers: records are whole and move by the table; a name or a range of ids has one holder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from minicontainer import containers
from minicontainer.containers import (
    CREATED,
    EXITED,
    NEXT,
    RUNNING,
    Container,
    Home,
    Network,
    Options,
    Port,
    Ulimit,
    Volume,
)
from minicontainer.errors import ContainerNotFound, Error, NameInUse
from minicontainer.linux import procfs

ONE, TWO = "1" * 64, "12" * 32


@pytest.fixture
def place(tmp_path: Path) -> Home:
    made = containers.home(f"{tmp_path}/data")
    containers.prepare(made)
    return made


def container(place: Home, container_id: str = ONE, **more: Any) -> Container:
    os.makedirs(place.container(container_id), exist_ok=True)
    made = Container(
        id=container_id, name="web", image="i", image_id="", options=Options(image="i"), created=1.5, bundle="/b"
    )
    return made._replace(**more)


def test_home_is_the_flag_then_the_environment_then_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICONTAINER_ROOT", "/env")
    assert containers.home("/flag") == Home("/flag", "/flag/run")
    assert containers.home() == Home("/env", "/env/run")
    monkeypatch.delenv("MINICONTAINER_ROOT")
    assert containers.home() == Home("/var/lib/minicontainer", "/run/minicontainer")


def test_a_home_is_its_owners_alone(place: Home) -> None:
    assert os.stat(place.data).st_mode & 0o777 == 0o700


def test_a_record_comes_back_as_it_was_written(place: Home) -> None:
    options = Options(
        image="i",
        command=("a", "b"),
        entrypoint=("c",),
        ports=(Port(80, 8080),),
        volumes=(Volume("/a", "/b", True),),
        ulimits=(Ulimit("core", 0, 1),),
        labels={"k": "v"},
        cpus=0.5,
    )
    whole = container(
        place,
        options=options,
        network=Network(address="172.18.0.2", prefix=16),
        ports=(Port(80, 8080),),
        cgroups={"memory": "/m"},
        lowers=("/l",),
    )
    containers.write(place, whole, was=CREATED)
    assert containers.read(place, ONE) == whole


def test_a_record_of_another_version_may_have_other_fields(place: Home) -> None:
    whole = container(place)
    json_object = {**whole.to_json(), "newer": 1}
    json_object["options"]["newer"] = [1]
    assert Container.from_json(json.loads(json.dumps(json_object))) == whole


def test_status_moves_by_the_table(place: Home) -> None:
    assert set(NEXT) == {CREATED, RUNNING, EXITED}
    one = container(place)
    for was, status in ((CREATED, RUNNING), (RUNNING, EXITED), (EXITED, RUNNING)):
        containers.write(place, one._replace(status=status), was=was)
    with pytest.raises(ValueError, match="running cannot become created"):
        containers.write(place, one, was=RUNNING)


def test_a_container_is_found_by_name_id_or_beginning(place: Home) -> None:
    container(place, ONE)
    container(place, TWO)
    containers.claim_name(place, "web", ONE)
    assert containers.find(place, "web") == ONE
    assert containers.find(place, TWO) == TWO
    assert containers.find(place, "121") == TWO
    with pytest.raises(Error, match="1 is the beginning of 2 container ids"):
        containers.find(place, "1")
    for absent in ("nope", "", "../names/web", "/"):
        with pytest.raises(ContainerNotFound):
            containers.find(place, absent)


def test_a_half_made_container_is_none(place: Home) -> None:
    os.makedirs(place.container(ONE))
    assert containers.ids(place) == [ONE]
    with pytest.raises(ContainerNotFound):
        containers.read(place, ONE)


def test_a_name_has_one_holder_who_is_named(place: Home) -> None:
    container(place, ONE)
    containers.claim_name(place, "web", ONE)
    with pytest.raises(NameInUse, match=f"web is in use by container {ONE[:12]}; try: minicontainer rm {ONE[:12]}"):
        containers.claim_name(place, "web", TWO)


def test_a_name_of_a_container_that_is_no_more_is_free(place: Home) -> None:
    containers.claim_name(place, "web", ONE)  # and there is no such container: its maker was killed
    containers.claim_name(place, "web", TWO)
    assert os.readlink(f"{place.data}/names/web") == TWO


def test_every_container_has_user_ids_of_its_own(place: Home) -> None:
    first, second, third = (containers.claim_ids(place, ONE[:63] + digit) for digit in "123")
    assert len({first, second, third}) == 3
    assert all(base % 65536 == 0 and base >= 1 << 20 and base + 65536 < 1 << 31 for base in (first, second, third))


def test_release_gives_back_its_own_and_leaves_anothers(place: Home) -> None:
    one = container(place, ONE)
    containers.claim_name(place, "web", ONE)
    one = one._replace(id_base=containers.claim_ids(place, ONE))
    containers.release(place, one._replace(id=TWO))
    assert os.listdir(f"{place.data}/names") == ["web"]
    containers.release(place, one)
    containers.release(place, one)
    assert os.listdir(f"{place.data}/names") == os.listdir(f"{place.data}/ids") == []


def test_removing_leaves_nothing_and_can_be_done_twice(place: Home) -> None:
    one = container(place, ONE)
    containers.claim_name(place, "web", ONE)
    Path(place.container(ONE), "upper").mkdir()
    containers.remove(place, one)
    containers.remove(place, one)
    assert containers.ids(place) == []
    assert os.listdir(f"{place.data}/removed") == []
    assert os.listdir(f"{place.data}/names") == []


def test_a_supervisor_is_alive_by_pid_and_start_time(place: Home) -> None:
    began = procfs.start_time(os.getpid()) or 0
    one = container(place, supervisor_pid=os.getpid(), supervisor_start_time=began)
    assert containers.alive(one)
    assert not containers.alive(one._replace(supervisor_start_time=began - 1))
    assert not containers.alive(one._replace(supervisor_pid=0))
