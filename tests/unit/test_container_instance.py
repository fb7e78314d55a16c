"""What a computer offers a cluster: the machine's own by default, the command line's word if there is one."""

import argparse
import json
import os
from typing import Any

import pytest

from miniecs.checkpoint import Identity
from miniecs.container_instance import Settings, add_arguments, attributes, registration, settings


def parse(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return settings(parser.parse_args(["--endpoint", "http://127.0.0.1:8600/", *words]))


def body(chosen: Settings, arn: str = "") -> dict[str, Any]:
    return registration(chosen, Identity(cluster="default", client_token="t", container_instance_arn=arn))


def test_a_computer_offers_itself() -> None:
    chosen = parse("--region", "eu-central-1")
    assert chosen.cpu == (os.cpu_count() or 0) * 1024
    with open("/proc/meminfo", encoding="ascii") as file:
        assert chosen.memory == int(file.readline().split()[1]) // 1024
    assert chosen.advertise_address == "127.0.0.1"  # it faces a control plane on the same computer
    assert chosen.availability_zone == "eu-central-1a"
    assert chosen.endpoint == "http://127.0.0.1:8600"


def test_the_command_line_has_the_last_word() -> None:
    chosen = parse(
        "--cpu", "512", "--memory", "256", "--advertise-address", "198.18.0.9", "--availability-zone", "z",
        "--instance-name", "one", "--attribute", "disk=ssd", "--attribute", "ecs.os-type=other", "--attribute", "flag",
    )  # fmt: skip
    named = dict(attributes(chosen))
    assert (chosen.cpu, chosen.memory, chosen.instance_name) == (512, 256, "one")
    assert (named["disk"], named["ecs.os-type"], named["flag"]) == ("ssd", "other", "")
    assert named["miniecs.advertise-address"] == "198.18.0.9"
    assert named["ecs.availability-zone"] == "z"


def test_a_registration_has_the_four_resources_of_ecs() -> None:
    resources = {resource["name"]: resource for resource in body(parse("--cpu", "512"))["totalResources"]}
    assert set(resources) == {"CPU", "MEMORY", "PORTS", "PORTS_UDP"}
    assert resources["CPU"] == {"name": "CPU", "type": "INTEGER", "integerValue": 512}
    assert "51678" in resources["PORTS"]["stringSetValue"]


def test_the_identity_document_says_who_and_where() -> None:
    chosen = parse("--instance-name", "one", "--availability-zone", "z")
    document = json.loads(body(chosen)["instanceIdentityDocument"])
    assert (document["instanceId"], document["availabilityZone"], document["privateIp"]) == ("one", "z", "127.0.0.1")


def test_only_one_who_was_registered_says_its_arn() -> None:
    chosen = parse()
    assert "containerInstanceArn" not in body(chosen)
    assert body(chosen, "arn")["containerInstanceArn"] == "arn"
    assert body(chosen)["clientToken"] == body(chosen, "arn")["clientToken"] == "t"


def test_attributes_are_sorted_and_a_capability_has_no_value() -> None:
    chosen = parse()
    names = [name for name, _ in attributes(chosen)]
    assert names == sorted(names)
    sent = {attribute["name"]: attribute for attribute in body(chosen)["attributes"]}
    assert sent["ecs.capability.container-ordering"] == {"name": "ecs.capability.container-ordering"}


@pytest.mark.parametrize("words", [("--attribute", "=x"), ("--cpu", "many"), ("--image-pull-behavior", "never")])
def test_what_makes_no_sense_is_refused(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*words)
    assert words[0] in capsys.readouterr().err
