"""Command line: `miniecs server`, `miniecs agent`, and answers for people. Each command imports only what it needs.

Stands on everything; nothing stands on it but the demo. Results go to stdout, progress, errors and logs to stderr.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from miniecs.errors import Error

DATA = "/var/lib/miniecs/server"


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words[0] if words else "")
    chosen = parser.parse_args(words)
    if not hasattr(chosen, "run"):
        parser.print_help()
        return 2
    try:
        status = int(chosen.run(chosen))
        sys.stdout.flush()  # here, where a disk that is full is told as every other failure
        return status
    except KeyboardInterrupt:
        return 130
    except (Error, OSError) as error:
        print(f"miniecs: {error}", file=sys.stderr)
        if isinstance(error, OSError) and arguments is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own flush does not fail too
        return error.exit_code if isinstance(error, Error) else 1


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="miniecs",
        description="An orchestrator that speaks the Amazon ECS API: a control plane, and an agent for each instance.",
        epilog="`miniecs COMMAND --help` says more. Clusters, task definitions, services: with `aws ecs`.",
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (text, add) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:  # the others are named only: their modules are not imported
            add(sub)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default=DATA, metavar="DIR", help="state and credentials (default: %(default)s)")
    parser.add_argument(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="where clients and agents reach it; may be repeated (default: 127.0.0.1:8600)",
    )
    parser.add_argument("--region", default="us-east-1", help="the region in ARNs (default: %(default)s)")
    parser.add_argument(
        "--instance-timeout",
        type=float,
        default=4.0,
        metavar="SECONDS",
        help="how long an instance may be silent before its tasks are replaced (default: %(default)s)",
    )
    parser.set_defaults(run=_server)


def _server(chosen: argparse.Namespace) -> int:
    from miniecs import server

    listen = tuple(chosen.listen or ("127.0.0.1:8600",))
    return server.main(server.Settings(chosen.data, listen, chosen.region, chosen.instance_timeout))


def _add_agent(parser: argparse.ArgumentParser) -> None:
    from miniecs import container_instance

    container_instance.add_arguments(parser)
    parser.set_defaults(run=_agent)


def _agent(chosen: argparse.Namespace) -> int:
    from miniecs import agent

    return agent.main(chosen)


# --- answers for people ----------------------------------------------------------------------------------------------


def _add_client(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--endpoint", metavar="URL", help="the control plane (default: $AWS_ENDPOINT_URL)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    parser.set_defaults(run=run)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="TASK|SERVICE", help="an ARN, the begin of a task's id, a service's name")
    parser.add_argument("--cluster", default="", help="where to look (default: in all clusters)")
    _add_client(parser, _explain)


def _explain(chosen: argparse.Namespace) -> int:
    from miniecs import tables

    answer = _ask(chosen, "explain", name=chosen.name, cluster=chosen.cluster)
    return _show(chosen, answer, tables.explanation)


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_client(parser, _status)


def _status(chosen: argparse.Namespace) -> int:
    from miniecs import tables

    return _show(chosen, _ask(chosen, "status"), tables.status)


def _show(chosen: argparse.Namespace, answer: Any, table: Callable[[Any], str]) -> int:
    print(json.dumps(answer, indent=2) if chosen.format == "json" else table(answer))
    return 0


def _ask(chosen: argparse.Namespace, what: str, body: Any = None, **query: str) -> Any:
    """Ask the server, or tell it `body`, signed with the credentials that the AWS tools would take."""
    from botocore.session import Session

    from miniecs import auth

    found = Session().get_credentials()
    endpoint = chosen.endpoint or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        raise Error("where is the control plane? try: --endpoint http://127.0.0.1:8600, or set AWS_ENDPOINT_URL")
    if found is None:
        raise Error(
            "no credentials found; try: export AWS_SHARED_CREDENTIALS_FILE=DIR/credentials (miniecs credentials)"
        )
    url = f"{endpoint.rstrip('/')}/_miniecs/{what}?{urllib.parse.urlencode(query)}".rstrip("?")
    method, data = ("POST", json.dumps(body).encode()) if body is not None else ("GET", b"")
    keys = auth.Credentials(found.access_key, found.secret_key)
    headers = {**auth.sign(keys, "us-east-1", "ecs", method, url, data), "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, data=data or None, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = json.loads(error.read() or b"{}")
        raise Error(said.get("message") or f"the control plane answered {error.code}") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise Error(f"no control plane answers at {endpoint}: {getattr(error, 'reason', error)}") from None


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="create|list|revoke|generate",
        choices=("create", "list", "revoke", "generate"),
        help="make one, show all, take one no more; or make one that no server knows yet",
    )
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="which one to revoke: its first half is enough")
    parser.add_argument(
        "--ttl", type=_seconds, default="24h", help="how long it is good: 90s, 30m, 24h, 7d (default: %(default)s)"
    )
    parser.add_argument("--token", metavar="TOKEN", help="create this one, or renew it (default: a new one)")
    _add_client(parser, _token)


def _seconds(text: str) -> float:
    """A number with s, m, h or d."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no time; try: 24h")
    return float(text[:-1]) * unit


def _token(chosen: argparse.Namespace) -> int:
    from miniecs import join_tokens, tables

    match chosen.action:
        case "generate":
            print(join_tokens.generate())
        case "list":
            return _show(chosen, _ask(chosen, "tokens"), tables.join_tokens)
        case "create":
            token = chosen.token or join_tokens.generate()
            _ask(chosen, "tokens", body={"token": token, "seconds": chosen.ttl})
            print(json.dumps({"token": token}) if chosen.format == "json" else token)
        case "revoke":
            if not chosen.id:
                raise Error("which token? try: miniecs token list, then: miniecs token revoke ID")
            _ask(chosen, "tokens", body={"token": chosen.id})
    return 0


def _add_credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default=DATA, metavar="DIR", help="the server's directory (default: %(default)s)")
    parser.add_argument("--format", choices=("shell", "json"), default="shell", help="default: %(default)s")
    parser.set_defaults(run=_credentials)


def _credentials(chosen: argparse.Namespace) -> int:
    from miniecs import server

    if not os.path.exists(f"{chosen.data}/credentials"):
        raise Error(f"no credentials in {chosen.data}: a server makes them; try: miniecs server --data {chosen.data}")
    secrets, _ = server.credentials(chosen.data)
    with open(f"{chosen.data}/endpoint") as file:
        endpoint = file.read().strip()
    access_key_id, secret = next(iter(secrets.items()))
    variables = {"AWS_ACCESS_KEY_ID": access_key_id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL": endpoint}
    if chosen.format == "json":
        print(json.dumps(variables, indent=2))
    else:
        print("\n".join(f"export {name}={value}" for name, value in variables.items()))
    return 0


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "server": ("run the control plane: API, scheduler, registry", _add_server),
    "agent": ("run the agent of a container instance", _add_agent),
    "status": ("show clusters, instances, services and tasks", _add_status),
    "explain": ("show why a task is where it is, or why a service has too few", _add_explain),
    "token": ("make, show and revoke the tokens that agents join by", _add_token),
    "credentials": ("print the server's credentials as shell commands", _add_credentials),
}

if __name__ == "__main__":
    sys.exit(main())
