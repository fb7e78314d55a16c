"""A control plane for the tests: the real server in a process of its own, and agents that only pretend to run tasks."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import boto3
from botocore.config import Config
from yarl import URL

from miniecs import auth, server

T = TypeVar("T")
REGION = "us-east-1"


def eventually(check: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


class ControlPlane:
    """`miniecs server` on a free port of the loopback."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.options = options
        self.listen = "127.0.0.1:0"
        self.process: subprocess.Popen[bytes] | None = None
        self.agents: list[PretendAgent] = []

    def start(self) -> "ControlPlane":
        command = [sys.executable, "-m", "miniecs", "server", "--data", str(self.data), "--listen", self.listen]
        with open(f"{self.data}.log", "ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout
        greeting = self.process.stdout.readline().decode()
        assert greeting, self.log
        self.listen = self.endpoint.removeprefix("http://")
        return self

    @property
    def endpoint(self) -> str:
        return (self.data / "endpoint").read_text().strip()

    @property
    def log(self) -> str:
        return Path(f"{self.data}.log").read_text()

    @property
    def credentials(self) -> auth.Credentials:
        return auth.Credentials(*next(iter(server.credentials(str(self.data))[0].items())))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "AWS_SHARED_CREDENTIALS_FILE": f"{self.data}/credentials",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_PAGER": "",
        }

    def client(self, service: str = "ecs", secret: str = "", key: str = "") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=key or self.credentials.access_key_id,
            aws_secret_access_key=secret or self.credentials.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )

    def aws(self, *words: str) -> Any:
        """What the `aws` command prints, as JSON."""
        command = [str(Path(sys.executable).parent / "aws"), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    def miniecs(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "miniecs", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def kill(self) -> None:
        """As a crash would end it."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)


@contextlib.contextmanager
def control_plane(data: Path, *options: str) -> Iterator[ControlPlane]:
    plane = ControlPlane(data, *options).start()
    try:
        yield plane
    finally:
        for agent in plane.agents:
            agent.vanish()
        if plane.process and plane.process.poll() is None:
            plane.kill()


class PretendAgent:
    """Speaks the frames of an agent; its tasks run in its imagination. Lives in a thread of its own."""

    def __init__(self, plane: ControlPlane, name: str, cpu: int = 1024, memory: int = 1024, **attributes: str) -> None:
        self.plane = plane
        self.name = name
        self.ecs = plane.client()
        self.frames: list[tuple[str, Any]] = []
        self.tasks: dict[str, str] = {}  # task ARN to what became of it
        self.answers = True  # to heartbeats and payloads
        self.starts = True  # says RUNNING of what it is given
        plane.agents.append(self)
        self.arn = self.register(cpu, memory, attributes)
        self._loop = asyncio.new_event_loop()
        self._port = 32768
        self._connections = 0
        self._ending = False
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        self._thread.start()
        eventually(lambda: self._connections and self._is_connected())

    def _is_connected(self) -> bool:
        """To the server's knowledge, too: before that it places nothing here."""
        [instance] = self.ecs.describe_container_instances(containerInstances=[self.arn])["containerInstances"]
        return bool(instance["agentConnected"])

    def register(self, cpu: int, memory: int, attributes: dict[str, str], **more: Any) -> str:
        zone = attributes.pop("zone", "")
        answer = self.ecs.register_container_instance(
            cluster="default",
            instanceIdentityDocument=json.dumps({"instanceId": self.name, "availabilityZone": zone}),
            totalResources=[
                {"name": "CPU", "type": "INTEGER", "integerValue": cpu},
                {"name": "MEMORY", "type": "INTEGER", "integerValue": memory},
            ],
            attributes=[{"name": name, "value": value} for name, value in attributes.items()],
            **more,
        )
        return str(answer["containerInstance"]["containerInstanceArn"])

    def end(self, task: str, exit_code: int = 0, reason: str = "", container: str = "web") -> None:
        """A task's container ends by itself."""
        self.report(task, "STOPPED", "Essential container in task exited", container, exit_code, reason)

    def report(
        self, task: str, status: str, reason: str = "", container: str = "web", exit_code: int = 0, why: str = ""
    ) -> None:
        ended = {"exitCode": exit_code, "reason": why} if status == "STOPPED" else {}
        self._port += 1
        bindings = [{"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": self._port, "protocol": "tcp"}]
        self.ecs.submit_task_state_change(
            cluster="default",
            task=task,
            status=status,
            reason=reason,
            containers=[{"containerName": container, "status": status, "networkBindings": bindings, **ended}],
        )
        self.tasks[task] = status

    def vanish(self) -> None:
        """The plug is pulled: nothing is said, the connection is just gone, and nobody comes back."""
        if self._ending:
            return
        self._ending = True
        if self._socket is not None and self._socket._response.connection is not None:
            transport = self._socket._response.connection.transport
            if transport is not None:  # the control plane may have ended first
                self._loop.call_soon_threadsafe(transport.abort)
        self._thread.join(timeout=5)

    def come_back(self) -> None:
        self._ending = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        before = self._connections
        self._thread.start()
        eventually(lambda: self._connections > before)

    def got(self, kind: str) -> list[Any]:
        return [message for type_, message in list(self.frames) if type_ == kind]

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as http:
            while not self._ending:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    await self._session(http)
                await asyncio.sleep(0.05)

    async def _session(self, http: aiohttp.ClientSession) -> None:
        query = {"agentVersion": "1.0.0", "clusterArn": "default", "containerInstanceArn": self.arn}
        url = f"{self.plane.endpoint}/ws?{urlencode(query)}"
        headers = auth.sign(self.plane.credentials, REGION, "ecs", "GET", url)
        async with http.ws_connect(URL(url, encoded=True), headers=headers) as self._socket:
            self._connections += 1
            async for message in self._socket:
                frame = json.loads(message.data)
                self.frames.append((frame["type"], frame["message"]))
                if self.answers:
                    await self._answer(frame["type"], frame["message"])

    async def _answer(self, kind: str, message: Any) -> None:
        match kind:
            case "HeartbeatMessage":
                await self._send("HeartbeatAckRequest", messageId=message["messageId"])
            case "TaskManifestMessage":
                await self._send(
                    "AckRequest", cluster="default", containerInstance="i1", messageId=message["messageId"]
                )
                known = {task["taskArn"] for task in message["tasks"]}
                stray = [arn for arn, status in self.tasks.items() if status != "STOPPED" and arn not in known]
                if stray:
                    stops = [{"taskArn": arn, "desiredStatus": "STOPPED"} for arn in stray]
                    await self._send(
                        "TaskStopVerificationMessage", messageId=message["messageId"], stopCandidates=stops
                    )
            case "TaskStopVerificationAck":
                self.tasks |= {task["taskArn"]: "STOPPED" for task in message["stopTasks"]}
            case "PayloadMessage":
                await self._send(
                    "AckRequest", cluster="default", containerInstance="i1", messageId=message["messageId"]
                )
                for task in message["tasks"]:
                    await asyncio.to_thread(self._take, task)

    def _take(self, task: Any) -> None:
        before = self.tasks.get(task["arn"])
        name = task["containers"][0]["name"]
        if task["desiredStatus"] == "STOPPED":
            self.report(task["arn"], "STOPPED", container=name)
        elif before is None:
            self.tasks[task["arn"]] = "PENDING"
            if self.starts:
                self.report(task["arn"], "RUNNING", container=name)

    async def _send(self, kind: str, **message: Any) -> None:
        assert self._socket is not None
        await self._socket.send_str(json.dumps({"type": kind, "message": message}))
