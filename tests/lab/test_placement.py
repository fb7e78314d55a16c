"""Where tasks go on machines of different size: worker1 has one CPU and 1 GiB, worker2 two CPUs and 1.5 GiB."""

from collections import Counter
from pathlib import Path

import pytest

from tests.lab.conftest import Cluster, until

pytestmark = pytest.mark.lab


def test_each_machine_is_a_computer_of_its_own(cluster: Cluster) -> None:
    boots = {cluster.says(name, "cat /proc/sys/kernel/random/boot_id") for name in cluster.lab.machines()}
    assert len(boots) == 3
    assert cluster.says("worker1", "stat -fc %T /sys/fs/cgroup") == "cgroup2fs"
    assert cluster.says("worker1", "getent hosts manager worker2").split() == [
        "192.168.56.10", "manager", "192.168.56.12", "worker2",
    ]  # fmt: skip


def test_commands_go_through_one_connection_which_a_cable_that_is_pulled_out_ends(cluster: Cluster) -> None:
    first = cluster.says("worker1", "echo $PPID")  # sshd has a process for each connection
    assert cluster.says("worker1", "echo $PPID") == first
    cluster.lab.plug("worker1", False)
    cluster.lab.plug("worker1", True)
    assert cluster.says("worker1", "echo $PPID") != first


def test_it_offers_what_the_table_of_nodes_gives_it(cluster: Cluster) -> None:
    offered = {
        name: {one["name"]: one["integerValue"] for one in instance["registeredResources"]}
        for name, instance in cluster.instances().items()
    }
    assert {name: one["CPU"] for name, one in offered.items()} == {"worker1": 1024, "worker2": 2048}
    assert 900 < offered["worker1"]["MEMORY"] <= 1024
    assert 1400 < offered["worker2"]["MEMORY"] <= 1536


def test_files_are_pushed_to_every_machine_and_the_checkout_is_brought_there(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("pushed\n")
    cluster.lab.push([tmp_path / "a file"], "/root/in here")
    cluster.says("worker1", "rm /vagrant/dev")
    cluster.lab.sync(["worker1"])
    for name in cluster.lab.machines():
        assert cluster.lab.run(name, "cat '/root/in here/a file'; test -x /vagrant/dev && echo there").stdout == (
            "pushed\nthere\n"
        )


def test_binpack_by_memory_fills_the_smaller_machine_first(cluster: Cluster) -> None:
    cluster.define("quarter", cpu=128, memory=256)
    assert cluster.place("quarter", 3, ("binpack", "memory")) == ["worker1"] * 3
    assert cluster.place("quarter", 2, ("binpack", "memory")) == ["worker2"] * 2  # 4 x 256 MiB is more than worker1 has


def test_binpack_by_cpu_fills_the_smaller_machine_first(cluster: Cluster) -> None:
    cluster.define("half", cpu=512, memory=64)
    assert cluster.place("half", 3, ("binpack", "cpu")) == ["worker1", "worker1", "worker2"]


def test_spread_gives_each_machine_as_many(cluster: Cluster) -> None:
    cluster.define("small")
    assert Counter(cluster.place("small", 4, ("spread", "instanceId"))) == {"worker1": 2, "worker2": 2}


@pytest.mark.parametrize(("cpu", "memory"), [(1536, 64), (128, 1200)])
def test_a_reservation_that_fits_on_one_machine_goes_there(cluster: Cluster, cpu: int, memory: int) -> None:
    cluster.define("large", cpu=cpu, memory=memory)
    assert cluster.place("large", 1, ("spread", "instanceId")) == ["worker2"]


@pytest.mark.parametrize(
    ("cpu", "memory", "reason", "detail"),
    [
        (4096, 64, "RESOURCE:CPU", "closest is worker2: needs 4096 CPU units"),
        (128, 4000, "RESOURCE:MEMORY", "closest is worker2: needs 4000 MiB"),
    ],
)
def test_a_task_too_large_for_all_is_refused_with_the_reason(
    cluster: Cluster, cpu: int, memory: int, reason: str, detail: str
) -> None:
    cluster.define("huge", cpu=cpu, memory=memory)
    refusal = cluster.refusal("huge")
    assert refusal["reason"] == reason
    assert refusal["detail"].startswith(detail)


def test_a_host_port_is_there_once_on_each_machine(cluster: Cluster) -> None:
    cluster.define("port", network="bridge", portMappings=[{"containerPort": 80, "hostPort": 8081}])
    assert sorted(cluster.place("port", 2)) == ["worker1", "worker2"]
    assert cluster.refusal("port")["reason"] == "RESOURCE:PORTS"


def test_tasks_on_different_machines_reach_each_other_by_published_port(cluster: Cluster) -> None:
    cluster.define("web", image="web:1", network="bridge", portMappings=[{"containerPort": 8080}], command=[])
    pages = {}
    for task in cluster.serve("web", 2):
        port = task["containers"][0]["networkBindings"][0]["hostPort"]
        address = cluster.lab.machine(cluster.on(task)).node.address
        pages[f"http://{address}:{port}/cgi-bin/whoami"] = f"task={task['taskArn']}"
    for machine in ("manager", "worker1", "worker2"):  # from each machine itself: the port of another, and its own
        for url, said in pages.items():
            until(
                lambda machine=machine, url=url, said=said: said in cluster.lab.run(machine, f"curl -fsS {url}").stdout
            )
    asking = " && ".join(f"wget -qO- {url} | grep -q ^host=" for url in pages)
    cluster.define("visitor", network="bridge", command=["sh", "-c", asking])
    spread = [{"type": "spread", "field": "instanceId"}]
    for task in cluster.ecs.run_task(taskDefinition="visitor", count=2, placementStrategy=spread)["tasks"]:
        assert cluster.stopped(task["taskArn"])["containers"][0]["exitCode"] == 0


def test_a_task_that_exceeds_its_memory_is_killed_by_its_machine_and_replaced(cluster: Cluster) -> None:
    cluster.define("hungry", image="hungry:1", memory=32, command=[])
    cluster.ecs.create_service(serviceName="hungry", taskDefinition="hungry", desiredCount=1)

    def killed() -> str:
        reasons = [one["containers"][0].get("reason", "") for one in cluster.tasks("hungry", "STOPPED")]
        return next((reason for reason in reasons if reason), "")

    assert until(killed) == "OutOfMemoryError: Container killed due to memory usage"
    until(lambda: len(cluster.tasks("hungry", "STOPPED") + cluster.tasks("hungry")) > 1)
