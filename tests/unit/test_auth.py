"""Signatures: botocore signs, we verify; whatever is changed afterwards is found."""

import time
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniecs import auth, errors
from miniecs.auth import Credentials, Request

KEY = Credentials("AKIAEXAMPLE", "secret/+value")
SECRETS = {KEY.access_key_id: KEY.secret_access_key}
URL = "http://127.0.0.1:8600/"


def request(method: str = "POST", url: str = URL, body: bytes = b"{}", key: Credentials = KEY) -> Request:
    """A request as it would arrive."""
    parts = urlsplit(url)
    signed = auth.sign(key, "us-east-1", "ecs", method, url, body)
    headers = {name.lower(): value for name, value in signed.items()} | {"host": parts.netloc}
    return Request(method, parts.path, parts.query, headers, body)


def changed(signed: Request, **headers: str) -> Request:
    return signed._replace(headers={**signed.headers, **{name.replace("_", "-"): v for name, v in headers.items()}})


def refusal(signed: Request, now: float | None = None) -> errors.AwsError:
    with pytest.raises(errors.AwsError) as caught:
        auth.verify(signed, SECRETS, time.time() if now is None else now)
    assert caught.value.status == 400
    return caught.value


def test_what_botocore_signs_is_verified() -> None:
    assert auth.verify(request(), SECRETS, time.time()) == KEY.access_key_id


@given(
    body=st.binary(max_size=50),
    path=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), max_size=10),
    query=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=8), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_any_path_query_and_body_is_verified(body: bytes, path: str, query: dict[str, str]) -> None:
    words = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    where = "/".join(quote(part, safe="") for part in path.split("/") if part not in ("", ".", ".."))
    url = f"{URL}{where}" + (f"?{words}" if words else "")
    assert auth.verify(request("GET", url, body), SECRETS, time.time()) == KEY.access_key_id


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"{ }"},
        {"method": "PUT"},
        {"path": "/other"},
        {"query": "a=b"},
    ],
)
def test_what_was_changed_on_the_way_is_found(change: dict[str, Any]) -> None:
    assert isinstance(refusal(request()._replace(**change)), errors.InvalidSignatureException)


def test_a_changed_header_is_found() -> None:
    assert isinstance(refusal(changed(request(), host="elsewhere")), errors.InvalidSignatureException)


def test_a_wrong_secret_and_an_unknown_key_are_told_apart() -> None:
    assert isinstance(refusal(request(key=KEY._replace(secret_access_key="x"))), errors.InvalidSignatureException)
    assert isinstance(refusal(request(key=Credentials("AKIANOBODY", "x"))), errors.UnrecognizedClientException)


def test_no_signature_at_all() -> None:
    assert isinstance(refusal(Request("POST", "/", "", {})), errors.MissingAuthenticationTokenException)


@pytest.mark.parametrize(
    "header",
    [
        "Basic abc",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, Signature=x",
        "AWS4-HMAC-SHA256 Credential=a/b/c/aws4_request, SignedHeaders=host;x-amz-date, Signature=x",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=host, Signature=x",
    ],
)
def test_half_a_signature(header: str) -> None:
    assert isinstance(refusal(changed(request(), authorization=header)), errors.IncompleteSignatureException)


@given(st.text(max_size=120))
def test_no_authorization_header_is_more_than_a_refusal(header: str) -> None:
    with pytest.raises(errors.AuthError):
        auth.verify(changed(request(), authorization=header), SECRETS, 0.0)


def test_a_clock_may_be_five_minutes_off() -> None:
    signed, now = request(), time.time()
    assert auth.verify(signed, SECRETS, now + 290) and auth.verify(signed, SECRETS, now - 290)
    assert "Signature expired" in str(refusal(signed, now + 310))
    assert "Signature not yet current" in str(refusal(signed, now - 310))


def test_generated_credentials_look_like_those_of_aws() -> None:
    one, other = auth.generate(), auth.generate()
    assert one.access_key_id.startswith("AKIA") and len(one.access_key_id) == 20 and len(one.secret_access_key) == 40
    assert one != other


# --- the registry's passwords ----------------------------------------------------------------------------------------


def test_a_registry_password_is_good_until_its_end() -> None:
    password = auth.registry_password(KEY, 1000)
    assert auth.authorize("AWS", password, SECRETS, now=999)
    assert not auth.authorize("AWS", password, SECRETS, now=1000)


def test_a_registry_password_cannot_be_prolonged_or_made_by_others() -> None:
    forged = auth.registry_password(KEY._replace(secret_access_key="guess"), 1000)
    assert not auth.authorize("AWS", forged, SECRETS, now=0)
    assert not auth.authorize("AWS", auth.registry_password(Credentials("x", "y"), 1000), SECRETS, now=0)


def test_an_access_key_and_its_secret_are_good_too() -> None:
    assert auth.authorize(*KEY, SECRETS, now=0)
    assert not auth.authorize(KEY.access_key_id, "", SECRETS, now=0)
    assert not auth.authorize("nobody", "", SECRETS, now=0)


@given(st.text(max_size=30), st.text(max_size=60))
def test_no_user_and_password_are_more_than_a_no(user: str, password: str) -> None:
    assert not auth.authorize(user, password, SECRETS, now=0)
    assert not auth.authorize("AWS", password, SECRETS, now=0)
