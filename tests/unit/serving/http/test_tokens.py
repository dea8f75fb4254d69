"""Bearer tokens: nothing but health and readiness without one."""

from __future__ import annotations

import pytest
from small_service import SmallService
from test_app import BODIES

from corral.serving.http.tokens import read_tokens

FIRST, SECOND = "first-token-of-two", "second-token-of-two"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FIRST}",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        f"Bearer {FIRST} {SECOND}",
        f"Bearer {FIRST}\n{SECOND}",
        FIRST,
        "Bearer \xff\xfe",
        "Bearer " + "x" * 10_000,
    ],
)
def test_without_a_token_nothing_is_answered(service: SmallService, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    with service.client(tokens=[FIRST, SECOND]) as client:
        for path, body in BODIES.items():
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/bundle", "/metrics", "/openapi.json", "/nowhere"):
            assert client.get(path, headers=headers).status_code == 401
        assert client.post("/v1/reload", headers=headers).status_code == 401
        assert client.get("/health", headers=headers).status_code == 200
        assert client.get("/ready", headers=headers).status_code == 200


@pytest.mark.parametrize("token", [FIRST, SECOND])
def test_any_of_the_tokens_will_do(service: SmallService, token: str) -> None:
    with service.client(tokens=[FIRST, SECOND]) as client:
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {token}"}
            assert client.post("/v1/recommend", json=BODIES["/v1/recommend"], headers=headers).status_code == 200


def test_the_document_says_that_a_token_is_needed(service: SmallService) -> None:
    with service.client(tokens=[FIRST]) as client:
        document = client.get("/openapi.json", headers={"authorization": f"Bearer {FIRST}"}).json()
    assert document["paths"]["/v1/recommend"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]


def test_tokens_of_a_file() -> None:
    assert read_tokens(f"# ours\n{FIRST}\n\n  {SECOND}  \n", "file") == (FIRST, SECOND)


@pytest.mark.parametrize(
    "text", ["", "\n# none\n", "short", "with a space in it", "ünïcödé-ünïcödé-ünïcödé", f"{FIRST}\nx"]
)
def test_tokens_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tokens\.txt") as refused:
        read_tokens(text, "tokens.txt")
    assert all(line.strip() not in str(refused.value) for line in text.splitlines() if len(line) > 6 and line[0] != "#")
