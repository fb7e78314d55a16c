"""terminal: what people see of the demo, and the `aws` command that a boto3 call is."""

import io
import json
import shlex

import pytest

from miniecs.terminal import Terminal, command_line, table, words


def test_a_step_says_what_it_does_and_then_what_came_of_it_and_how_long_it_took() -> None:
    out = io.StringIO()
    with Terminal(out).step(3, "Boot") as step:
        step.done("three instances")
    title, result = out.getvalue().strip().splitlines()
    assert title == "3. Boot"
    assert result.startswith("   ✓ three instances · 0.")


def test_a_step_that_fails_says_so_and_lets_the_error_through() -> None:
    out = io.StringIO()
    with pytest.raises(ValueError, match="no"), Terminal(out).step(1, "Build"):
        raise ValueError("no")
    assert "✗ not done, after 0.0 s" in out.getvalue()


def test_no_colour_goes_into_a_file() -> None:
    out = io.StringIO()
    Terminal(out).command("aws ecs list-tasks")
    assert out.getvalue() == "   $ aws ecs list-tasks\n"


def test_a_table_has_columns_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "B"), [("long", 1), ("x", "yes")]).splitlines() == ["A     B", "long  1", "x     yes"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CreateService", ["create", "service"]),
        ("clientToken", ["client", "token"]),
        ("RegisterTaskDefinition", ["register", "task", "definition"]),
        ("enableECSManagedTags", ["enable", "ecs", "managed", "tags"]),
    ],
)
def test_the_words_of_an_api_name(name: str, expected: list[str]) -> None:
    assert words(name) == expected


def test_a_call_is_shown_as_the_aws_command_that_makes_it() -> None:
    line = command_line(
        "UpdateService",
        {
            "cluster": "demo",
            "service": "web",
            "desiredCount": 0,
            "force": True,
            "tasks": ["a", "b c"],
            "tags": [{"key": "k"}],
        },
    )
    assert shlex.split(line) == [
        *("aws", "ecs", "update-service", "--cluster", "demo", "--service", "web", "--desired-count", "0", "--force"),
        *("--tasks", "a", "b c", "--tags", json.dumps([{"key": "k"}])),
    ]
