"""Demo: the main job, step by step, as a person would do it; `./dev demo` runs it.

Stands on top: it types the commands of `minicontainer` and `miniecs`, and calls the ECS API by boto3, each shown as
the `aws ecs` command that does the same. A promise that is not kept ends it with exit status 1.
"""

import argparse
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import boto3

from miniecs.census import CGROUP, census
from miniecs.errors import Error
from miniecs.lab import PORT, Lab, sweep
from miniecs.terminal import Terminal, command_line, words

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".demo"
CLUSTER = "demo"
DESIRED = 4
REPLACED_WITHIN = 6.0  # seconds from an instance's loss until its tasks run elsewhere
INSTANCES = {"small": (1024, 256), "medium": (1024, 512), "large": (2048, 1024)}  # name: (CPU units, MiB)
WEB = {
    "name": "web",
    "cpu": 256,
    "memory": 64,
    "essential": True,
    "portMappings": [{"containerPort": 8080}],
}
HUNGRY = {"name": "hungry", "cpu": 128, "memory": 32, "essential": True}
KEPT = """
It is all still up. In a root shell:

    . {data}/env                                  # the endpoint and the credentials
    aws ecs list-tasks --cluster {cluster}
    miniecs status
    miniecs explain web --cluster {cluster}               # why the tasks are where they are
    curl {url}
    aws ecs update-service --cluster {cluster} --service web --desired-count 6
    sudo ./dev demo --stop{where}                        # end it, and leave nothing
"""


class Task(NamedTuple):
    """A running task of the service `web`, and where its page is."""

    task_id: str
    machine: str
    url: str


class Demo:
    """The eight steps. Each asserts what it shows."""

    def __init__(self, data: Path, keep: bool, terminal: Terminal) -> None:
        self.data = data
        self.keep = keep
        self.terminal = terminal
        self.lab = Lab(data, attended=not keep)
        self.before = self.built = census(data)
        self.signalled = 0  # by which signal it is to end
        self._clients: dict[str, Any] = {}

    def interrupt(self, number: int, _: object) -> None:
        """What a signal does: end, and clean up once."""
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        self.signalled = number
        raise KeyboardInterrupt

    def go_on(self) -> None:
        """Not when a signal came: Python drops an exception that a signal raises while an object is collected."""
        if self.signalled:
            raise KeyboardInterrupt

    def run(self) -> None:
        started = time.monotonic()
        self.lab.up()
        self.build()
        self.push()
        self.boot()
        self.deploy()
        self.look()
        self.limits()
        self.lose_an_instance()
        if self.keep:
            self.say_what_to_try()
        else:
            self.finish()
        self.terminal.line(f"\nThe whole took {time.monotonic() - started:.1f} s.")

    # --- the steps ---------------------------------------------------------------------------------------------------

    def build(self) -> None:
        with self.terminal.step(1, "Build a base image from Debian's busybox-static, and images/web on it") as step:
            context = self.data / "busybox"
            shutil.copytree(ROOT / "images/busybox", context, dirs_exist_ok=True)
            shutil.copy2("/bin/busybox", context / "busybox")
            for name, directory in (
                ("busybox", context),
                ("web:1", ROOT / "images/web"),
                ("hungry:1", ROOT / "images/hungry"),
            ):
                self.call("minicontainer", "build", "--quiet", "--tag", name, os.path.relpath(directory))
            self.terminal.block(self.call("minicontainer", "images"))
            self.built = census(self.data)
            step.done("three images in the store, which is an OCI image layout")

    def push(self) -> None:
        with self.terminal.step(2, "Start the control plane and push the images into its registry") as step:
            self.terminal.command(f"miniecs server --data {os.path.relpath(self.data)}/server --listen {self.registry}")
            self.lab.start_server()
            token = self.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
            password = base64.b64decode(token).decode().partition(":")[2]
            login = ("minicontainer", "login", "--username", "AWS", "--password-stdin", self.registry)
            self.call(*login, stdin=password, source="aws ecr get-login-password | ")
            for image in ("web:1", "hungry:1"):
                self.call("minicontainer", "tag", image, f"{self.registry}/{image}")
                self.call("minicontainer", "push", f"{self.registry}/{image}")
            step.done("two images in the registry, by the OCI distribution API")

    def boot(self) -> None:
        with self.terminal.step(3, "Boot three container instances of different size") as step:
            self.ecs("CreateCluster", clusterName=CLUSTER)
            for name, (cpu, memory) in INSTANCES.items():
                machine = self.lab.start_machine(name, cpu=cpu, memory=memory, options=["--cluster", CLUSTER])
                self.terminal.command(f"miniecs agent --cpu {cpu} --memory {memory} …   # on {name}, {machine.address}")
            self.until(lambda: len(self.instances()) == len(INSTANCES), 20, "three instances to register")
            step.done("each a machine of its own: address, ports, processes, agent")

    def deploy(self) -> None:
        with self.terminal.step(4, f"Register a task definition, and run it as a service of {DESIRED} tasks") as step:
            web = {**WEB, "image": f"{self.registry}/web:1"}
            self.ecs("RegisterTaskDefinition", family="web", containerDefinitions=[web], cpu="256", memory="64")
            spread = [{"type": "spread", "field": "instanceId"}]
            service = {"cluster": CLUSTER, "serviceName": "web", "taskDefinition": "web", "desiredCount": DESIRED}
            self.ecs("CreateService", **service, placementStrategy=spread)
            self.until(lambda: len(self.tasks()) == DESIRED, 30, f"{DESIRED} tasks to run")
            step.done(f"{DESIRED} tasks RUNNING")

    def look(self) -> None:
        with self.terminal.step(5, "See where each task was placed, and why; fetch its page") as step:
            tasks, rows = self.tasks(), []
            for task in tasks:
                page = fetch(f"{task.url}/cgi-bin/whoami")
                if task.task_id not in page:
                    raise Error(f"{task.url} does not name its task {task.task_id}: {page!r}")
                rows.append((task.task_id[:8], task.machine, task.url, said(page)))
            self.terminal.table(("TASK", "INSTANCE", "PAGE", "THE PAGE SAYS"), rows)
            self.terminal.block(self.call("miniecs", "explain", tasks[0].task_id, "--cluster", CLUSTER))
            step.done("each page names its task and instance, from the task metadata endpoint")

    def limits(self) -> None:
        with self.terminal.step(
            6, "The limits are real: the kernel's own files, and a task that eats too much"
        ) as step:
            self.terminal.table(("CGROUP FILE", "VALUE"), list(self.kernel_limits(self.tasks()[0])))
            hungry = {**HUNGRY, "image": f"{self.registry}/hungry:1"}
            self.ecs("RegisterTaskDefinition", family="hungry", containerDefinitions=[hungry])
            self.ecs("CreateService", cluster=CLUSTER, serviceName="hungry", taskDefinition="hungry", desiredCount=1)
            killed = self.until(self.out_of_memory, 20, "the hungry task to be killed")
            row = (killed["taskArn"][-32:][:8], killed["exitCode"], killed["reason"], killed["stoppedReason"])
            self.terminal.table(("TASK", "EXIT CODE", "REASON", "THE TASK'S REASON"), [row])
            self.until(lambda: len(self.described("hungry")) > 1, 20, "the killed task to be replaced")
            self.ecs("DeleteService", cluster=CLUSTER, service="hungry", force=True)
            step.done("killed by the kernel at 32 MiB: exit code 137, OutOfMemoryError; and replaced")

    def lose_an_instance(self) -> None:
        with self.terminal.step(7, "Pull the plug of an instance") as step:
            victim = "medium"
            others = [task for task in self.tasks() if task.machine != victim]
            lost = DESIRED - len(others)
            self.terminal.command(
                f"kill -9 {self.lab.machines[victim].pid}   # process 1 of {victim}: its {lost} task(s) go with it"
            )
            with Visitors(others) as visitors:
                pulled = time.monotonic()
                self.lab.power_off(victim)
                self.until(lambda: self.running_beyond(victim) == DESIRED, 20, "the lost tasks to run elsewhere")
                seconds = time.monotonic() - pulled
            self.terminal.block("\n".join(event["message"] for event in self.service()["events"][:4]))
            if seconds > REPLACED_WITHIN:
                raise Error(f"the lost tasks ran elsewhere after {seconds:.1f} s; the promise is {REPLACED_WITHIN:g} s")
            if not lost or visitors.failed or not visitors.visits:
                failed = f"{len(visitors.failed)} of {visitors.visits} visits to the others failed"
                raise Error(f"{lost} tasks lost; {failed}: {'; '.join(visitors.failed[:3])}")
            step.done(f"running elsewhere after {seconds:.1f} s; {visitors.visits} visits to the rest, 0 failed")

    def finish(self) -> None:
        with self.terminal.step(8, "Scale to zero, stop everything, and look for what was left behind") as step:
            self.ecs("UpdateService", cluster=CLUSTER, service="web", desiredCount=0)
            self.until(lambda: not self.described("web", "RUNNING"), 30, "the tasks to stop")
            self.ecs("DeleteService", cluster=CLUSTER, service="web")
            self.tidy()
            left = self.left_behind()
            rows = [(kind, len(names), " ".join(names)[:90]) for kind, names in left.items()]
            self.terminal.table(("LEFT BEHIND", "COUNT", ""), rows)
            if any(left.values()) or self.data.exists():
                raise Error("something was left behind: the table above says what")
            step.done("nothing was left behind")

    def left_behind(self) -> dict[str, list[str]]:
        """By kind, what is new. Containers of the builds ran beside those of others, the rest in the lab."""
        left = census(self.data).beyond(self.before, self.lab.bridge)
        left["cgroups"] = [name for name in left["cgroups"] if f"/{CGROUP}" in name or name in self.built.cgroups]
        return left

    def tidy(self) -> None:
        """End all of it and remove the data. May be called twice."""
        self.lab.down()
        shutil.rmtree(self.data, ignore_errors=True)

    def say_what_to_try(self) -> None:
        ours = ("AWS_", "DOCKER_", "MINICONTAINER_", "PATH")
        lines = [f"export {name}='{value}'" for name, value in self.lab.environment.items() if name.startswith(ours)]
        (self.data / "env").write_text("\n".join(lines) + "\n")
        data = os.path.relpath(self.data)
        where = "" if self.data == DATA else f" --data {data}"
        self.terminal.line(KEPT.format(data=data, where=where, url=self.tasks()[0].url, cluster=CLUSTER))

    # --- asking and doing --------------------------------------------------------------------------------------------

    @property
    def registry(self) -> str:
        return f"{self.lab.address}:{PORT}"

    def call(self, *command: str, stdin: str = "", source: str = "") -> str:
        """Run one of our commands as a person would; return what it printed. `source` is where `stdin` comes from."""
        self.go_on()
        self.terminal.command(source + " ".join(command))
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.lab.environment)
        if done.returncode:
            raise Error(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def client(self, service: str) -> Any:
        self.go_on()
        with contextlib.suppress(KeyError):
            return self._clients[service]
        os.environ.update({k: v for k, v in self.lab.environment.items() if k.startswith("AWS_")})
        self._clients[service] = boto3.session.Session().client(service)
        return self._clients[service]

    def ecs(self, operation: str, **parameters: Any) -> Any:
        """Call ECS by boto3, and show the `aws` command that does the same."""
        self.terminal.command(command_line(operation, parameters))
        return getattr(self.client("ecs"), "_".join(words(operation)))(**parameters)

    def service(self) -> Any:
        return self.client("ecs").describe_services(cluster=CLUSTER, services=["web"])["services"][0]

    def instances(self) -> dict[str, str]:
        """The ARN of each connected instance, and the name of its machine."""
        ecs = self.client("ecs")
        arns = ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"]
        if not arns:
            return {}
        found = ecs.describe_container_instances(cluster=CLUSTER, containerInstances=arns)["containerInstances"]
        addresses = {machine.address: name for name, machine in self.lab.machines.items()}
        return {
            instance["containerInstanceArn"]: addresses.get(attribute["value"], "?")
            for instance in found
            for attribute in instance["attributes"]
            if attribute["name"] == "miniecs.advertise-address" and instance["agentConnected"]
        }

    def described(self, service: str, status: str = "") -> list[Any]:
        """The tasks of a service, of all desired statuses or of one."""
        ecs = self.client("ecs")
        arns = [
            arn
            for desired in ([status] if status else ["RUNNING", "STOPPED"])
            for arn in ecs.list_tasks(cluster=CLUSTER, serviceName=service, desiredStatus=desired)["taskArns"]
        ]
        return ecs.describe_tasks(cluster=CLUSTER, tasks=arns)["tasks"] if arns else []

    def tasks(self) -> list[Task]:
        """The tasks of `web` that run on connected instances, with the pages they serve."""
        machines = self.instances()
        return [
            Task(
                task_id=task["taskArn"][-32:],
                machine=machines[task["containerInstanceArn"]],
                url=f"http://{self.lab.machines[machines[task['containerInstanceArn']]].address}:{binding['hostPort']}",
            )
            for task in self.described("web", "RUNNING")
            if task["lastStatus"] == "RUNNING" and task["containerInstanceArn"] in machines
            for binding in task["containers"][0]["networkBindings"][:1]
        ]

    def running_beyond(self, machine: str) -> int:
        return sum(task.machine != machine for task in self.tasks())

    def out_of_memory(self) -> Any:
        """The first task of `hungry` that the kernel killed, or None."""
        for task in self.described("hungry", "STOPPED"):
            container = task["containers"][0]
            if container.get("exitCode") == 137 and container.get("reason", "").startswith("OutOfMemoryError"):
                return {**task, "exitCode": 137, "reason": container["reason"]}
        return None

    def kernel_limits(self, task: Task) -> Iterator[tuple[str, str]]:
        """The limits in the task's cgroup and below it, as the kernel's files say them."""
        memory, expected = [], WEB["memory"] * 1024 * 1024  # type: ignore[operator]  # the table's values are objects
        for root in self.lab.machines[task.machine].cgroups:
            for directory in sorted(root.glob(f"**/{task.task_id}/**/")):
                for name in (
                    "memory.limit_in_bytes",
                    "memory.max",
                    "cpu.cfs_quota_us",
                    "cpu.shares",
                    "cpu.max",
                    "pids.max",
                ):
                    if (directory / name).exists():
                        value = (directory / name).read_text().strip()
                        memory += [int(value)] if name.startswith("memory") else []
                        short = "/".join(part[:12] for part in directory.relative_to(root).parts)
                        yield f"{short}/{name}", value
        if expected not in memory:
            raise Error(f"no cgroup of task {task.task_id} is limited to {expected} bytes: {memory}")

    def until(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Wait until `condition` holds; return its value."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.lab.log(name)}" for name in ("server", *self.lab.machines))
                raise Error(f"waited {seconds:g} s for {what}, in vain. The last lines of the logs:\n{logs}")
            self.go_on()
            time.sleep(0.1)
        return value


class Visitors:
    """People who look at the tasks' pages all the while; counts visits and failures."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.visits = 0
        self.failed: list[str] = []  # what went wrong, of each visit that failed
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._leave.wait(0.05):
            for task in self.tasks:
                self.visits += 1
                try:
                    page = fetch(f"{task.url}/cgi-bin/whoami")
                except OSError as error:
                    self.failed.append(f"{task.url}: {error}")
                else:
                    self.failed += [] if task.task_id in page else [f"{task.url} says {page!r}"]


def fetch(url: str) -> str:
    """The page at `url`.

    Raises:
        OSError: it could not be had within five seconds.
    """
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def said(page: str) -> str:
    """What the page of images/web says, short: of each ARN the first digits of its id."""
    values = (line.partition("=") for line in page.splitlines() if line.startswith(("task=", "instance=")))
    return "  ".join(f"{name} {value.rpartition('/')[2][:8]}" for name, _, value in values)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description="The main job in eight steps, in under a minute.")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up and say what to try next")
    parser.add_argument("--stop", action="store_true", help="end what --keep left up")
    parser.add_argument("--data", type=Path, default=DATA, help="where everything is kept (%(default)s)")
    options = parser.parse_args()
    if options.stop:
        sweep(options.data)
        shutil.rmtree(options.data, ignore_errors=True)
        return 0
    demo = Demo(options.data.resolve(), options.keep, Terminal(sys.stdout))
    kept = False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, demo.interrupt)
    try:
        demo.run()
        kept = options.keep
    except (Error, OSError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; cleaning up", file=sys.stderr)
        return 128 + demo.signalled
    finally:
        if not kept:
            demo.tidy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
