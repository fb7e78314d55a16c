"""templates: what people write after `docker … --format`, and what Go makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicontainer.arguments import UsageError
from minicontainer.templates import aligned, template

SHOWN: dict[str, Any] = {
    "Name": "web",
    "State": {"Status": "running", "Running": True, "Pid": 7, "Health": None},
    "Config": {"Env": ["A=1", "B=two words"], "Labels": {"tier": "front", "com.x/y": "z"}, "Cmd": []},
    "NetworkSettings": {
        "Networks": {"bridge": {"IPAddress": "172.18.0.2"}},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": []},
    },
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .State.Status }}: {{.State.Pid}}", "running: 7"),
        ("{{.State.Running}} {{.State.Health}}", "true <no value>"),
        ("{{json .Config.Env}}", '["A=1","B=two words"]'),
        ("{{.Config.Env}}", "[A=1 B=two words]"),
        ("{{.Config.Labels}}", "map[com.x/y:z tier:front]"),
        ("{{len .Config.Env}}", "2"),
        ("{{index .Config.Env 1}}", "B=two words"),
        ('{{index .Config.Labels "com.x/y"}}', "z"),
        ('{{index .Config.Labels "absent"}}', ""),
        ('{{join .Config.Env ","}}', "A=1,B=two words"),
        ("{{.Name | upper | len}}", "3"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=two words\n"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.18.0.2"),
        ("{{range $name, $one := .NetworkSettings.Networks}}{{$name}}={{$one.IPAddress}}{{end}}", "bridge=172.18.0.2"),
        ("{{range $i, $e := .Config.Env}}{{$i}}:{{$e}};{{end}}", "0:A=1;1:B=two words;"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range $p, $c := .NetworkSettings.Ports}}{{$p}}{{if $c}} -> {{(index $c 0).HostPort}}{{end}} {{end}}",
         "53/udp 80/tcp -> 8080 "),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if eq .Name "db"}}a{{else if eq .Name "web"}}b{{else}}c{{end}}', "b"),
        ("{{if and .Name .Config.Cmd}}both{{end}}{{if or .Config.Cmd .Name}}one{{end}}", "one"),
        ("{{with .State}}{{.Status}} of {{$.Name}}{{end}}", "running of web"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* a comment */}}x", "x"),
        (r"{{.Name}}\t{{.State.Pid}}\n", "web\t7\n"),
        ('{{"{{"}}{{`a"b`}}', '{{a"b'),
        ('{{not .State.Running}} {{ne .Name "x"}} {{true}}', "false true true"),
        ('{{index (split .Name "e") 1}}', "b"),
    ],
)  # fmt: skip
def test_a_template_says_what_go_says(text: str, said: str) -> None:
    assert template(text)(SHOWN) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{.Nam}}", "there is no field .Nam; there are: Name, State, Config, NetworkSettings"),
        ("{{.Name.First}}", "there is no field .First"),
        ("{{.Name", "{{ without its }}"),
        ("{{range .Config.Env}}x", "an end is missing"),
        ("{{end}}", "end without its beginning"),
        ("{{jsn .Name}}", "jsn is no function; there are: and, eq, index"),
        ("{{}}", "nothing is said"),
        ("{{.Name .State}}", ".Name is no function"),
        ("{{(.Name}}", "( without its )"),
        ("{{.Name)}}", "is one word too many"),
        ("{{$x}}", "there is no variable $x"),
        ("{{index .Config.Env 5}}", "has nothing at 5"),
        ("{{upper}}", "upper cannot take nothing"),
        ("{{len 5}}", "len cannot take 5"),
        ("{{#}}", "'#' cannot be read"),
    ],
)
def test_a_template_that_is_none_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        template(text)(SHOWN)
    assert str(refused.value).startswith("--format: ") and said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(alphabet='{}.$|() "`\\-:=,rangeifdNmjso5', max_size=40))
def test_whatever_is_written_it_says_something_or_refuses(text: str) -> None:
    try:
        assert isinstance(template(text)(SHOWN), str)
    except UsageError as error:
        assert str(error).startswith("--format: ")


def test_columns_are_aligned() -> None:
    assert aligned(["NAME\tSTATUS", "a\tup", "longer\t"]) == "NAME     STATUS\na        up\nlonger\n"
