"""What is taken out of texts, and where they are cut."""

from __future__ import annotations

import base64

import pytest

from actions.text import redacted

SECRET = "s3cr3t/with ü & more"


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        "s3cr3t/with%20%C3%BC%20%26%20more",
        "s3cr3t%2Fwith%20%C3%BC%20%26%20more",
        "s3cr3t/with ü &amp; more",
        "s3cr3t\\/with ü & more",
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        SECRET.encode().hex(),
        "s3cr3t%2fwith%20%c3%bc%20%26%20more",
        "s3cr3t%252Fwith%2520%25C3%25BC%2520%2526%2520more",
        "s3cr3t/with \\u00fc & more",
        "s3cr3t/with \\xc3\\xbc & more",
    ],
)
def test_a_secret_is_taken_out_however_it_is_spelled_and_wherever_the_text_ends(spelled: str) -> None:
    assert redacted(f"no such hook: {spelled}; sorry", [SECRET]) == "no such hook: ***; sorry"
    for length in range(4, len(spelled)):
        assert redacted(f"no such hook: {spelled[:length]}", [SECRET]) == "no such hook: ***"


@pytest.mark.parametrize("before", ["", "u", "us", "use", "user"])
def test_a_secret_in_the_base64_of_something_longer_is_taken_out(before: str) -> None:
    told = base64.b64encode(f"\0{before}\0{SECRET}\n".encode()).decode()
    left = redacted(f"not after {told}", [SECRET]).replace("***", "").removeprefix("not after ").rstrip("=")
    assert len(left) <= (len(before) + 3) * 4 / 3 + 2, "what was beside it, and no more than a few bits of it"


def test_quotes_in_a_secret_are_known_in_every_language() -> None:
    secret = "pa\"ss'word"
    for spelled in ("pa\\\"ss'word", "pa&quot;ss&#x27;word", "pa&#34;ss&#39;word", "pa\"ss\\'word"):
        assert "word" not in redacted(f"no: {spelled}", [secret])


def test_a_character_that_is_cut_in_two_hides_no_start_of_a_secret() -> None:
    answer = f"no such hook: {SECRET}".encode()[: len(b"no such hook: s3cr3t/with \xc3")]
    assert redacted(answer.decode("utf-8", "replace"), [SECRET]) == "no such hook: ***"


def test_what_only_resembles_a_secret_stays() -> None:
    assert redacted("s3cr3t agents said yes", [SECRET, ""]) == "s3cr3t agents said yes"
