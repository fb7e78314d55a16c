"""run_mounts: what RUN --mount says, and what it cannot say."""

import pytest

from minicontainer.build.dockerfile import parse
from minicontainer.build.run_mounts import RunMount, run_mounts
from minicontainer.build.stages import Refused, Scope, State
from minicontainer.oci.image import ContainerConfig

STATE = State(config=ContainerConfig(working_dir="/w"), arguments={"dir": "/x", "stage": "tools"})
SCOPE = Scope(given={}, declared={}, platform={})


def mounts(*words: str) -> tuple[RunMount, ...]:
    flags = " ".join(f"--mount={word}" for word in words)
    return run_mounts(parse(f"FROM a\nRUN {flags} true").instructions[-1], STATE, SCOPE)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("target=/a", RunMount("bind", "/a", read_only=True)),
        (
            "type=bind,from=$stage,source=/s,dst=$dir/a,rw",
            RunMount("bind", "/x/a", source="/s", stage="tools", read_only=False),
        ),
        ("type=bind,src=s,target=rel,readonly=false", RunMount("bind", "/w/rel", source="s", read_only=False)),
        ("type=bind,target=/a,rw=false", RunMount("bind", "/a", read_only=True)),
        ("type=cache,target=/c/", RunMount("cache", "/c", id="/c", mode=0o755)),
        (
            "type=cache,id=one,target=/c,sharing=locked,mode=0700,uid=1,gid=2,ro",
            RunMount("cache", "/c", id="one", sharing="locked", mode=0o700, uid=1, gid=2, read_only=True),
        ),
        ("type=tmpfs,target=/t,size=64m", RunMount("tmpfs", "/t", size=64 << 20)),
        ("type=secret,id=key", RunMount("secret", "/run/secrets/key", id="key", mode=0o400)),
        ("type=secret,target=/etc/key", RunMount("secret", "/etc/key", id="key", mode=0o400)),
        ("type=secret,id=key,env=KEY", RunMount("secret", "", id="key", mode=0o400, env="KEY")),
        (
            "type=secret,id=key,env=KEY,target=/k,required=true,mode=0444",
            RunMount("secret", "/k", id="key", mode=0o444, env="KEY", required=True),
        ),
        ("type=ssh", RunMount("ssh", "/run/buildkit/ssh_agent.0", id="default", mode=0o600)),
        ('"type=bind","target=/a,b"', RunMount("bind", "/a,b", read_only=True)),
    ],
)
def test_a_mount_is_read(written: str, expected: RunMount) -> None:
    assert mounts(written) == (expected,)


def test_each_agent_has_a_socket_of_its_own() -> None:
    found = mounts("type=ssh", "type=tmpfs,target=/t", "type=ssh,id=other")
    assert [mount.target for mount in found] == ["/run/buildkit/ssh_agent.0", "/t", "/run/buildkit/ssh_agent.1"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("type=bind", "a mount of type bind needs a target: target=/path"),
        ("type=cache,target=/", "the target cannot be /"),
        ("type=disk,target=/a", "disk is no type of mount; there are bind, cache, tmpfs, secret, ssh"),
        ("type=tmpfs,target=/a,from=b", "a mount of type tmpfs has no from"),
        ("type=secret,id=a,rw", "a mount of type secret has no rw"),
        ("type=secret", "a secret needs an id: id=name"),
        ("type=cache,target=/a,sharing=mine", "sharing=mine: it is one of shared, private, locked"),
        ("type=cache,target=/a,mode=999", "mode=999: it is an octal mode"),
        ("type=cache,target=/a,uid=me", "uid=me: it is a number"),
        ("type=tmpfs,target=/a,size=big", "size=big: it is a number of bytes, like 64m"),
        ("type=bind,target=/a,rw=perhaps", "rw=perhaps: it is true or false"),
        ("type=bind,target", "target needs a value: target=..."),
    ],
)
def test_a_mount_that_cannot_be_says_why(written: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        mounts(written)
    assert str(refused.value) == f"--mount={written}: {said}"
