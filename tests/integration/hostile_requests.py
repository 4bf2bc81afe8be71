"""Requests that would hurt the server or another client, by kind.

A kind is a function of a client and a random generator that sends one request. It returns None if the request was
refused as it should be, and otherwise what happened instead.
"""

import hashlib
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import load_file, save

HALF = "\ud83d"
ARM = {"system_prompt": "", "temperature": 1.0, "top_p": 1.0}
# A request may be refused while it is sent: the server may close the connection before it has read everything.
CUT_OFF = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)

Kind = Callable[[httpx.Client, random.Random], str | None]


def post(client: httpx.Client, path: str, body: Any, **headers: str) -> str | None:
    """Sends JSON (httpx itself refuses half characters); returns None if the answer is 4xx."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refused(client, "POST", path, content, {"Content-Type": "application/json", **headers})


def refused(
    client: httpx.Client, method: str, path: str, content: bytes, headers: dict[str, str]
) -> str | None:
    try:
        response = client.request(method, path, content=content, headers=headers)
    except CUT_OFF:
        return None
    if 400 <= response.status_code < 500:
        return None
    return f"{method} {path[:40]}: {response.status_code} {response.text[:200]}"


def completions(**body: Any) -> Kind:
    asked = {"model": "policy", "prompt": "1 + 1 =", "max_tokens": 4, **body}
    return lambda client, rng: post(client, "/v1/completions", asked)


def chat(**body: Any) -> Kind:
    asked = {"model": "policy", "messages": [{"role": "user", "content": "?"}], **body}
    return lambda client, rng: post(client, "/v1/chat/completions", asked)


def arms(**body: Any) -> Kind:
    asked = {"questions": ["1 + 1?"], "max_tokens": 4, **body}
    return lambda client, rng: post(client, "/v1/arms/generate", asked)


def raw(path: str, body: bytes) -> Kind:
    return lambda client, rng: post(client, path, body)


def many_arms(count: int) -> list[dict[str, Any]]:
    return [{**ARM, "name": f"a{index}", "system_prompt": f"{index}"} for index in range(count)]


def other_content_type(client: httpx.Client, rng: random.Random) -> str | None:
    path = rng.choice(["/v1/completions", "/v1/arms/generate", "/tokenize"])
    return refused(client, "POST", path, b"x" * 2**23, {"Content-Type": "multipart/x"})


def long_header(client: httpx.Client, rng: random.Random) -> str | None:
    return refused(client, "GET", "/v1/status", b"", {"X-Long": "x" * 2**22})


def long_url(client: httpx.Client, rng: random.Random) -> str | None:
    # Over a socket, since httpx itself refuses URLs of this length.
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as sock:
        sock.settimeout(60)
        try:
            sock.sendall(
                b"GET /v1/status?" + b"x" * 2**22 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            answer = sock.recv(64)
        except OSError:
            return None
    return None if answer == b"" or b" 4" in answer[:12] else f"long URL: {answer!r}"


def cross_site(client: httpx.Client, rng: random.Random) -> str | None:
    headers = rng.choice(
        [
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "evil.example"},
        ]
    )
    return refused(client, "POST", "/v1/adapters/0/activate", b"", headers)


def invocations(client: httpx.Client, rng: random.Random) -> str | None:
    """The route must not exist, or must give the policy's answer."""
    body = {"model": "policy", "prompt": "1 + 1 =", "max_tokens": 8, "temperature": 0}
    there = client.post("/invocations", json=body)
    if there.status_code in (404, 405):
        return None
    policy = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    base = client.post("/v1/completions", json={**body, "model": "base"}).json()["choices"][0]
    text = there.json()["choices"][0]["text"]
    return None if text == policy != base["text"] else f"/invocations answers {text!r}"


def client_that_leaves(client: httpx.Client, rng: random.Random) -> str | None:
    body = {"questions": ["?"], "arms": many_arms(16), "samples_per_arm": 4, "max_tokens": 500}
    try:
        with client.stream("POST", "/v1/arms/generate", json={**body, "stream": True}, timeout=0.5):
            return None
    except httpx.TimeoutException:
        return None


# As large as a request may be: its answer fills the buffers on the way to a client that does not read it.
LARGE = {
    "questions": ["x" * 900, "y" * 900],
    "arms": many_arms(16),
    "samples_per_arm": 16,
    "max_tokens": 1,
}


class Stalled:
    """Clients that ask for a stream and never read it; they stay until `close`."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __call__(self, client: httpx.Client, rng: random.Random) -> str | None:
        content = json.dumps({**LARGE, "stream": True, "timeout_s": 20}).encode()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((client.base_url.host, client.base_url.port or 80))
        sock.sendall(
            b"POST /v1/arms/generate HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        self._sockets.append(sock)
        return None

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


class Adapters:
    """Uploads that must not be accepted; each under a number that was never used."""

    def __init__(self, folder: Path) -> None:
        self._config = json.loads((folder / "adapter_config.json").read_text())
        self._weights = load_file(folder / "adapter_model.safetensors")

    def with_config(self, **changes: Any) -> Kind:
        return lambda client, rng: self._put(client, rng, {**self._config, **changes}, 1.0)

    def with_weights_of(self, size: float) -> Kind:
        return lambda client, rng: self._put(client, rng, self._config, size)

    def _put(
        self, client: httpx.Client, rng: random.Random, config: dict[str, Any], size: float
    ) -> str | None:
        largest = max(float(tensor.abs().max()) for tensor in self._weights.values())
        factor = 1.0 if size == 1.0 else size / largest
        weights = save({name: tensor * factor for name, tensor in self._weights.items()})
        response = client.put(
            f"/v1/adapters/{rng.randrange(10**6, 10**8)}",
            files={
                "adapter_config.json": json.dumps(config).encode(),
                "adapter_model.safetensors": weights,
            },
            data={"sha256": hashlib.sha256(weights).hexdigest()},
        )
        return None if 400 <= response.status_code < 500 else f"accepted: {response.text[:200]}"


def kinds(adapter: Path, stalled: Stalled) -> dict[str, Kind]:
    """Every kind by its name; the number in a name is the line in section A of issue 17."""
    adapters = Adapters(adapter)
    return {
        "1 stop": completions(stop=HALF),
        "1 stop of several": completions(stop=["a", HALF], n=3),
        "1 request_id": completions(request_id=HALF),
        "1 request_id of several": completions(request_id=HALF, n=2),
        "1 prompt": completions(prompt=HALF),
        "1 model": completions(model=HALF),
        "1 seed": completions(seed=2**70),
        "1 bad_words": completions(bad_words=[HALF]),
        "1 grammar": completions(structured_outputs={"grammar": "root ::= ("}),
        "1 regex": completions(structured_outputs={"regex": "(["}),
        "1 chat stop": chat(stop=[HALF]),
        "1 chat content": chat(messages=[{"role": "user", "content": HALF}]),
        "1 chat grammar": chat(structured_outputs={"grammar": HALF}),
        "1 question": arms(questions=[HALF]),
        "1 arm": arms(arms=[{**ARM, "name": HALF}]),
        "1 bytes": raw("/v1/completions", b'{"model": "policy", "prompt": "\xed\xa0\xbd"}'),
        "2 alpha": adapters.with_config(lora_alpha=1e39),
        "2 weights": adapters.with_weights_of(3e38),
        "3 long question": arms(questions=["What is 1 + 1? " * 140_000]),
        "3 long arm": arms(arms=[{**ARM, "name": "a", "system_prompt": "x" * 2_000_000}]),
        "3 many long": arms(questions=["x" * 10_000] * 20, arms=many_arms(20)),
        "3 wrong questions": arms(questions=[1] * 200_000),
        "3 many questions": arms(questions=["?"] * 300_000),
        "3 a list": raw("/v1/arms/generate", b"[" + b"1," * 200_000 + b"1]"),
        "3 deep": raw("/v1/completions", b"[" * 400_000),
        "3 messages": chat(messages=[1] * 200_000),
        "3 keys": completions(**{f"k{index}": 1 for index in range(100_000)}),
        "logprobs of chosen tokens": completions(logprobs=2, logprob_token_ids=[1, 2]),
        "logprobs": completions(prompt=[[1] * 500] * 100, echo=True, logprobs=20),
        "3 prompt": completions(prompt="What is 1 + 1? " * 140_000),
        "4 completions": arms(questions=["?"] * 256, arms=many_arms(64), samples_per_arm=16),
        "4 all arms": arms(questions=["?"] * 256, samples_per_arm=16),
        "4 n": completions(n=16_384),
        "4 prompts": completions(prompt=["?"] * 100_000),
        "5 content type": other_content_type,
        "5 header": long_header,
        "5 URL": long_url,
        "7 cross-site": cross_site,
        "8 leaves": client_that_leaves,
        "8 does not read": stalled,
        "10 invocations": invocations,
        "11 layers": adapters.with_config(layers_to_transform=[0]),
        "11 fan_in_fan_out": adapters.with_config(fan_in_fan_out=True),
        "11 tokens": adapters.with_config(trainable_token_indices=[1]),
    }
