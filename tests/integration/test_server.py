"""The real vLLM server with our plugin in it, on the CPU."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch
from safetensors.torch import load_file, save
from starlette.routing import Route

from inference_server.http.routes import router
from inference_server.http.vllm_routes import VLLM_ROUTES
from inference_server.launch.server_process import ServerProcess, free_port
from inference_server.wire.schemas import ArmGroup, ArmsResponse, FinishReason, ServerStatus
from inference_server.wire.streams import StreamEnd
from regime_w import build_all_arms
from tests.integration.server_fixture import (
    load_policy,
    metric,
    paused_engine,
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "test-key"
# Float32 on both sides; the server adds a cached prefix and other batch shapes.
LOGPROB_TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapter_dirs(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [save_random_adapter(model_dir, folder / f"{seed}", seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    state_dir = tmp_path_factory.mktemp("server") / "state"
    with server_with(model_dir, state_dir, api_key=KEY, max_loaded_versions=3) as server:
        yield server
        assert_sigterm_ends(server)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
        yield client


def assert_sigterm_ends(server: ServerProcess) -> None:
    """Sends SIGTERM, and checks that the server exits with 0 by itself and that the engine's processes end."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    server.process.terminate()
    assert server.process.wait(300) == 0, server.log_tail()
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive


# First in the file: these start servers of their own, and the machine has room for one at a time.
@pytest.mark.parametrize("stage", ["importing", "loading"])
def test_sigterm_while_it_starts_ends_the_server(
    model_dir: Path, tmp_path: Path, stage: str
) -> None:
    server = ServerProcess.start(model=model_dir, log_path=tmp_path / "log")
    try:
        if stage == "importing":
            time.sleep(5)
        else:
            wait_until(lambda: "Initializing a V1 LLM engine" in server.log_path.read_text())
        assert_sigterm_ends(server)
    finally:
        server.stop()


def test_a_flag_that_vllm_refuses_is_one_line_and_exit_code_2(model_dir: Path) -> None:
    command = [sys.executable, "-m", "inference_server", "--model", str(model_dir)]
    command += ["--port", str(free_port()), "--max-model-length=5"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "unrecognized arguments: --max-model-length=5" in result.stderr.splitlines()[-1]


def test_the_engine_is_a_fork_of_the_process_that_imported_its_modules(
    server: ServerProcess,
) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    (engine,) = [process for process in family if "EngineCore" in " ".join(process.cmdline())]
    (fork_server,) = [parent for parent in family if parent.pid == engine.ppid()]
    assert fork_server.ppid() == server.process.pid
    assert "engine_not_forked" not in server.log_path.read_text()


class Versions:
    """Version numbers that no test has used; versions are immutable while the server runs."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


@pytest.fixture(scope="module")
def versions() -> Versions:
    return Versions()


def put(client: httpx.Client, version: int, folder: Path, **changes: Any) -> httpx.Response:
    weights = changes.get("weights", (folder / "adapter_model.safetensors").read_bytes())
    config = changes.get("config", (folder / "adapter_config.json").read_bytes())
    return client.put(
        f"/v1/adapters/{version}",
        files={"adapter_config.json": config, "adapter_model.safetensors": weights},
        data={"sha256": changes.get("sha256", hashlib.sha256(weights).hexdigest())},
    )


def generate(client: httpx.Client, **body: Any) -> ArmsResponse:
    body = {"questions": ["What is 3 + 4?", "What is 9 - 2?"], "max_tokens": 24, "seed": 1, **body}
    response = client.post("/v1/arms/generate", json=body)
    assert response.status_code == 200, response.text
    return ArmsResponse.model_validate(response.json())


def tokens_of(response: ArmsResponse) -> list[list[int]]:
    return [arm.token_ids for group in response.groups for arm in group.arms]


def logprobs_of(response: ArmsResponse) -> list[float]:
    return [value for group in response.groups for arm in group.arms for value in arm.logprobs]


def without_logprobs(response: ArmsResponse) -> dict[str, Any]:
    return response.model_dump(exclude={"groups": {"__all__": {"arms": {"__all__": {"logprobs"}}}}})


def assert_logprobs_are_those_of(response: ArmsResponse, policy: torch.nn.Module) -> None:
    """Recomputes every logprob: temperature, then the nucleus, then renormalised."""
    for group in response.groups:
        for arm in group.arms:
            ids = torch.tensor([arm.prompt_token_ids + arm.token_ids])
            with torch.no_grad():
                logits = policy(input_ids=ids).logits[0, len(arm.prompt_token_ids) - 1 : -1]
            probs = (logits.double() / arm.temperature).softmax(-1)
            # If the nucleus ends within the rounding error of its mass (a float32 sum over the
            # vocabulary, of logits divided by the temperature), the token at its edge may be in it on
            # one side only. Then both sides are right, and every logprob of the position differs.
            rounding = probs.shape[-1] * torch.finfo(torch.float32).eps / arm.temperature
            largest = nucleus_logprobs(probs, arm.token_ids, arm.top_p + rounding)
            smallest = nucleus_logprobs(probs, arm.token_ids, arm.top_p - rounding)
            assert largest.isfinite().all(), "a token from outside the nucleus"
            smallest = torch.where(smallest.isfinite(), smallest, largest)
            found = torch.tensor(arm.logprobs, dtype=torch.float64)
            expected = found.clamp(largest, smallest)
            torch.testing.assert_close(found, expected, atol=LOGPROB_TOLERANCE, rtol=0)


def nucleus_logprobs(probs: torch.Tensor, token_ids: list[int], top_p: float) -> torch.Tensor:
    """[T] the logprob of each token within the nucleus of ``probs`` [T, V]; minus infinity outside it."""
    likeliest, order = probs.sort(descending=True)
    outside = likeliest.cumsum(-1) - likeliest >= top_p
    nucleus = torch.zeros_like(probs).scatter(-1, order, likeliest.masked_fill(outside, 0))
    chosen = nucleus.gather(-1, torch.tensor(token_ids)[:, None])[:, 0]
    return (chosen / nucleus.sum(-1)).log()


def test_a_group_is_eight_arms_whose_logprobs_are_the_sampling_distributions(
    client: httpx.Client, model_dir: Path, adapter_dirs: list[Path], versions: Versions
) -> None:
    response = generate(client, policy="base", samples_per_arm=2)
    assert response.policy_version is None
    for group in response.groups:
        assert [(arm.arm, arm.sample) for arm in group.arms] == [
            (arm.name, sample) for arm in build_all_arms() for sample in range(2)
        ]
        for arm in group.arms:
            assert len(arm.token_ids) == len(arm.logprobs) > 0
            assert "Solve the problem" not in arm.text
            ended = arm.token_ids[-1] == 1
            assert arm.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
            assert ended or len(arm.token_ids) == 24
    assert_logprobs_are_those_of(response, load_policy(model_dir, None))


def test_an_adapter_answers_as_it_does_in_peft(
    client: httpx.Client, model_dir: Path, adapter_dirs: list[Path], versions: Versions
) -> None:
    for folder in adapter_dirs[:2]:
        version = versions.next()
        response = put(client, version, folder)
        assert response.status_code == 201, response.text
        assert response.json()["active"] is True
        assert put(client, version, folder).status_code == 200
        generated = generate(client)
        assert generated.policy_version == version
        assert {group.policy_version for group in generated.groups} == {version}
        assert_logprobs_are_those_of(generated, load_policy(model_dir, folder))


def test_the_same_seed_gives_the_same_tokens(
    client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    put(client, versions.next(), adapter_dirs[0])
    first = generate(client)
    assert tokens_of(generate(client)) == tokens_of(first)
    assert tokens_of(generate(client, seed=2)) != tokens_of(first)
    assert tokens_of(generate(client, seed=None)) != tokens_of(generate(client, seed=None))
    assert tokens_of(generate(client, policy="base")) != tokens_of(first)


def test_the_openai_routes_serve_base_policy_and_versions(
    server: ServerProcess, client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    old, new = versions.next(), versions.next()
    put(client, old, adapter_dirs[0])
    put(client, new, adapter_dirs[1])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as api:

        def answer(model: str) -> tuple[str, list[float] | None]:
            completion = api.completions.create(
                model=model, prompt="Solve", max_tokens=8, temperature=0, logprobs=0
            )
            logprobs = completion.choices[0].logprobs
            assert logprobs is not None
            return completion.model, logprobs.token_logprobs

        names = [model.id for model in api.models.list()]
        assert len(names) == len(set(names))
        assert {"base", "policy", f"policy-{old:06d}", f"policy-{new:06d}"} <= set(names)
        assert answer("policy") == answer(f"policy-{new:06d}")
        assert answer("policy")[0] == f"policy-{new:06d}"
        assert answer("policy")[1] != answer(f"policy-{old:06d}")[1] != answer("base")[1]
        assert client.post(f"/v1/adapters/{old}/activate").status_code == 200
        assert answer("policy") == answer(f"policy-{old:06d}")
        assert generate(client).policy_version == old
        with pytest.raises(openai.NotFoundError):
            answer("policy-999999")


def test_the_openai_client_samples_streaming_and_not(
    server: ServerProcess, client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    version = versions.next()
    put(client, version, adapter_dirs[1])
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as api:
        for model in ("policy", f"policy-{version:06d}", "base"):
            whole = api.completions.create(model=model, prompt="Solve", max_tokens=8, seed=3)
            with api.completions.create(
                model=model, prompt="Solve", max_tokens=8, seed=3, stream=True
            ) as chunks:
                streamed = "".join(chunk.choices[0].text for chunk in chunks)
            assert streamed == whole.choices[0].text != ""


def test_our_text_is_the_one_of_vllms_own_route(
    client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    put(client, versions.next(), adapter_dirs[0])
    generated = generate(client, questions=["Wie heißt du? 你好 🙂"], samples_per_arm=2)
    for arm in generated.groups[0].arms:
        response = client.post(
            "/v1/completions",
            json={
                "model": "policy",
                "prompt": arm.prompt_token_ids,
                "temperature": arm.temperature,
                "top_p": arm.top_p,
                "seed": arm.seed,
                "max_tokens": 24,
                "return_token_ids": True,
            },
        ).json()["choices"][0]
        assert (response["token_ids"], response["text"]) == (arm.token_ids, arm.text)


def test_new_weights_count_at_once_and_old_ones_come_back_bit_for_bit(
    client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    """With the prefix cache on: the prompt is the same, and was cached under the other weights."""
    prompt = {"prompt": "Solve the problem step by step. " * 20, "model": "policy"}
    greedy = {**prompt, "max_tokens": 8, "temperature": 0, "logprobs": 0}

    def logprobs() -> list[float]:
        choice = client.post("/v1/completions", json=greedy).json()["choices"][0]
        found: list[float] = choice["logprobs"]["token_logprobs"]
        return found

    first, second = versions.next(), versions.next()
    put(client, first, adapter_dirs[0])
    logprobs()  # fills the cache
    old = logprobs()
    put(client, second, adapter_dirs[1])
    new = logprobs()
    assert new != old
    client.post(f"/v1/adapters/{first}/activate").raise_for_status()
    assert logprobs() == old
    client.post(f"/v1/adapters/{second}/activate").raise_for_status()
    logprobs()
    assert logprobs() == logprobs() != old


def test_groups_are_streamed_and_compressed(
    client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    put(client, versions.next(), adapter_dirs[0])
    body = {"questions": ["a", "b", "c"], "max_tokens": 24, "seed": 1, "score": True}
    whole = generate(client, **body)
    with client.stream("POST", "/v1/arms/generate", json={**body, "stream": True}) as response:
        assert response.headers["Content-Encoding"] == "zstd"
        *lines, last = response.iter_lines()
    streamed = whole.model_copy(
        update={"groups": sorted(map(ArmGroup.model_validate_json, lines), key=lambda g: g.id)}
    )
    assert tokens_of(streamed) == tokens_of(whole)
    # Another order of arrival makes other batches, whose sums round differently.
    assert logprobs_of(streamed) == pytest.approx(logprobs_of(whole), abs=1e-5)
    assert without_logprobs(streamed) == without_logprobs(whole)
    assert StreamEnd.model_validate_json(last).usage == whole.usage


def test_metrics_are_beside_vllms_own(client: httpx.Client) -> None:
    generate(client, priority="rollout")
    metrics = client.get("/metrics").text
    for name in ("regime_w_groups_in_flight", "regime_w_push_seconds_sum", "vllm:num_requests"):
        assert f"\n{name}" in metrics


def test_the_engine_sends_tokens_in_groups_unless_they_are_streamed(client: httpx.Client) -> None:
    def num_messages(*, stream: bool) -> float:
        """Messages with a completion's 40 tokens after the first; each is one observation of this histogram."""
        names = ("vllm:inter_token_latency_seconds_count", "vllm:generation_tokens_total")

        def read() -> list[float]:
            text = client.get("/metrics").text
            return [metric(text, name) for name in names]

        before, tokens_before = read()
        body = {"model": "base", "prompt": "Solve", "max_tokens": 40, "ignore_eos": True}
        response = client.post("/v1/completions", json={**body, "stream": stream})
        assert response.status_code == 200, response.text
        wait_until(lambda: read()[1] - tokens_before == 40)
        return read()[0] - before

    assert num_messages(stream=True) == 39
    assert num_messages(stream=False) in (3, 4)  # the first group may be shorter than the others


def test_bad_uploads_change_nothing(
    client: httpx.Client, adapter_dirs: list[Path], versions: Versions
) -> None:
    good, version = versions.next(), versions.next()
    put(client, good, adapter_dirs[0])
    before = generate(client)
    folder = adapter_dirs[1]
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    config = json.loads((folder / "adapter_config.json").read_text())
    for changes in (
        {"sha256": "0" * 64},
        {"weights": b"not safetensors"},
        {"weights": save({**tensors, name: tensors[name] * torch.nan})},
        {"weights": save({**tensors, name: tensors[name][:, 1:].contiguous()})},
        {"weights": save({**tensors, name.replace("layers.0", "layers.7"): tensors[name].clone()})},
        {"config": json.dumps({**config, "r": 64}).encode()},
        {"config": json.dumps({**config, "use_dora": True}).encode()},
        # Our own checks let this pass; the engine refuses it.
        {"config": json.dumps({**config, "init_lora_weights": "pissa"}).encode()},
    ):
        response = put(client, version, folder, **changes)
        assert response.status_code == 400, (changes, response.text)
        assert response.json()["error"]["type"] == "invalid_adapter"
    after = generate(client)
    assert after.policy_version == good
    assert tokens_of(after) == tokens_of(before)
    assert put(client, version, folder).status_code == 201


def test_every_group_is_of_one_version_while_versions_are_pushed(
    client: httpx.Client, model_dir: Path, adapter_dirs: list[Path], versions: Versions
) -> None:
    first = versions.next()
    put(client, first, adapter_dirs[0])
    folder_of = {first: adapter_dirs[0]}
    responses: list[ArmsResponse] = []
    with sampling(client, responses):
        for index in range(8):
            version = versions.next()
            folder_of[version] = adapter_dirs[index % 3]
            pushed = put(client, version, folder_of[version])
            assert pushed.status_code == 201, pushed.text
            # Waits however slow the machine is: if a sampler stayed on an older version while three
            # more were pushed, every version would be in use, and the push would rightly be refused.
            wait_until(lambda: responses[-1:] and responses[-1].policy_version == max(folder_of))
    assert {response.policy_version for response in responses} >= folder_of.keys() - {first}
    policies = [load_policy(model_dir, folder) for folder in adapter_dirs]
    for response in responses:
        for group in response.groups:
            assert group.policy_version is not None
            policy = policies[adapter_dirs.index(folder_of[group.policy_version])]
            assert_logprobs_are_those_of(response.model_copy(update={"groups": [group]}), policy)
    status = ServerStatus.model_validate(client.get("/v1/status").json())
    assert status.groups_in_flight == 0
    assert len(status.versions) <= 4
    assert all(version.num_leases == 0 for version in status.versions)
    # vLLM's time series of an adapter ends with it; otherwise a long run would leave thousands of them.
    lines = client.get("/metrics").text.splitlines()
    series = [line for line in lines if line.startswith("vllm:lora_requests_info{")]
    named = set(re.findall(r"policy-[0-9]{6}", "\n".join(series)))
    assert named
    assert named <= {version.name for version in status.versions}


@contextmanager
def sampling(client: httpx.Client, responses: list[ArmsResponse]) -> Iterator[None]:
    """Within the block two clients ask without a pause; ``responses`` collects the answers."""
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            responses.append(generate(client, questions=["a", "b", "c", "d"], seed=None))

    with ThreadPoolExecutor(2) as pool:
        samplers = [pool.submit(sample) for _ in range(2)]
        try:
            yield
        finally:
            stop.set()
    for sampler in samplers:
        sampler.result()


def test_what_is_too_long_is_refused_before_the_engine(client: httpx.Client) -> None:
    body = {"questions": [{"id": "long", "question": "7 " * 2000}]}
    response = client.post("/v1/arms/generate", json=body)
    assert response.status_code == 400
    assert "question 'long'" in response.json()["error"]["message"]


def test_a_client_that_goes_away_frees_the_engine(
    server: ServerProcess, client: httpx.Client
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    arm = {"name": "long", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}
    body = {"questions": ["?"] * 8, "arms": [arm], "samples_per_arm": 16, "max_tokens": 900}
    # The engine is paused, so that a request that ends has not simply finished.
    with paused_engine(server):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/arms/generate", json=body, headers=headers, timeout=0.5)
        wait_until(lambda: metric(client.get("/metrics").text, "regime_w_groups_in_flight") == 0)
    wait_until(lambda: client.get("/v1/status").json()["requests_in_flight"] == 0)


def test_every_route_but_health_asks_for_the_key(server: ServerProcess) -> None:
    """Checks every route that the server has registered, as vLLM logs them when it starts."""
    routes = re.findall(r"Route: (\S+), Methods: ([A-Z, ]+)", server.log_path.read_text())
    requests = [(m, path) for path, methods in routes for m in methods.split(", ")]
    requests += [("GET", "/metrics"), ("GET", "/nowhere"), ("POST", "/health/x")]
    ours = {route.path for route in router.routes if isinstance(route, Route)}
    assert {path for path, _ in routes} == {*VLLM_ROUTES, *ours, "/", "/health", "/v1/models"}
    with httpx.Client(base_url=server.url) as stranger:
        for method, path in requests:
            if path == "/health":
                assert stranger.get(path).status_code == 200
                continue
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
                response = stranger.request(method, path.replace("{version}", "1"), headers=headers)
                assert response.status_code == 401, (method, path)
                if method != "HEAD":
                    assert response.json()["error"]["type"] == "unauthorized"


def test_routes_that_go_round_the_registry_are_not_there(
    server: ServerProcess, client: httpx.Client
) -> None:
    for path in (
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/scale_elastic_ep", "/sleep"),
        *("/pause", "/reset_prefix_cache", "/update_weights", "/collective_rpc"),
        *("/invocations", "/tokenize", "/generative_scoring", "/v1/systemone"),
    ):
        assert client.post(path, json={}).status_code == 404, path
    assert KEY not in server.log_path.read_text()


def test_errors_have_one_shape_on_vllms_routes_too(client: httpx.Client) -> None:
    for response in (
        client.get("/nowhere"),
        client.post("/v1/completions", json={"model": "nobody", "prompt": "x"}),
        client.post("/v1/completions", json={"prompt": 3}),
        client.post("/v1/arms/generate", json={}),
    ):
        assert response.status_code in (400, 404)
        assert {"type", "message", "param"} <= set(response.json()["error"])
