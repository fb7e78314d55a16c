"""What an agent keeps is there for the next agent: whole, and nothing else."""

from pathlib import Path

import msgspec
import pytest

from miniecs.acs import Container, Task
from miniecs.checkpoint import REMEMBERED, Checkpoint, Identity, remember
from miniecs.errors import Error
from miniecs.transitions import TaskRecord, new_record, stop


def record(number: int) -> TaskRecord:
    arn = f"arn:aws:ecs:us-east-1:000000000000:task/default/{number:032x}"
    task = Task(arn=arn, family="f", version="1", containers=(Container(name="web", image="web:1"),))
    return new_record(task, lambda: "id")


def reopen(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.close()
    return Checkpoint(str(checkpoint.directory))


def test_a_directory_has_one_agent(tmp_path: Path) -> None:
    first = Checkpoint(str(tmp_path))
    with pytest.raises(Error, match="another agent uses"):
        Checkpoint(str(tmp_path))
    reopen(first)


def test_a_new_agent_knows_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path / "data"))
    assert checkpoint.identity() is None
    assert checkpoint.records() == []


def test_who_it_is_is_kept(tmp_path: Path) -> None:
    identity = Identity(cluster="default", client_token="t", container_instance_arn="arn", finished=("a", "b"))
    checkpoint = Checkpoint(str(tmp_path))
    checkpoint.save_identity(identity)
    assert reopen(checkpoint).identity() == identity


def test_records_are_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path))
    checkpoint.save(record(1), durable=True)
    checkpoint.save(record(2))
    changed = stop(record(1), "enough", 1.0)
    checkpoint.save(changed)
    checkpoint = reopen(checkpoint)
    assert checkpoint.records() == [changed, record(2)]
    checkpoint.forget(changed)
    checkpoint.forget(changed)
    assert reopen(checkpoint).records() == [record(2)]


def test_a_half_written_file_is_not_seen(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path))
    checkpoint.save(record(1))
    (tmp_path / "tasks" / f"{2:032x}.new").write_text('{"task": {"arn": "arn:')  # killed between open and rename
    assert checkpoint.records() == [record(1)]
    checkpoint.save(record(2))
    assert checkpoint.records() == [record(1), record(2)]


def test_its_files_are_its_owners_alone(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path / "data"))
    checkpoint.save_identity(Identity(cluster="default", client_token="t"))
    checkpoint.save(record(1))
    for path in (tmp_path / "data").rglob("*.json"):
        assert path.stat().st_mode & 0o077 == 0


def test_the_oldest_stopped_task_is_the_first_to_be_forgotten() -> None:
    identity = Identity(cluster="default", client_token="t")
    for number in range(REMEMBERED + 3):
        identity = remember(identity, str(number))
    assert len(identity.finished) == REMEMBERED
    assert (identity.finished[0], identity.finished[-1]) == ("3", str(REMEMBERED + 2))


def test_what_is_written_is_json_in_ecs_words(tmp_path: Path) -> None:
    Checkpoint(str(tmp_path)).save_identity(Identity(cluster="c", client_token="t", container_instance_arn="a"))
    said = msgspec.json.decode((tmp_path / "agent.json").read_bytes())
    assert said == {"cluster": "c", "clientToken": "t", "containerInstanceArn": "a"}


def test_a_record_that_a_power_cut_left_broken_is_passed_over(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path))
    checkpoint.save(record(1))
    (checkpoint.tasks / "2.json").write_bytes(b"")
    (checkpoint.tasks / "3.json").write_bytes(b'{"task": ')
    assert checkpoint.records() == [record(1)]
    assert [path.name for path in checkpoint.tasks.glob("*.json")] == [f"{record(1).task.id}.json"]
