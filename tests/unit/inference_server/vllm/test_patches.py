"""The plugin of vLLM that installs the patches, the switch by which it zeroes new blocks, and the scheduler it changes.

tests/integration/test_kv_cache.py shows what zeroing does.
"""

import inspect
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference_server.wire.hardware.prerequisites import PATCHES_PLUGIN

ROOT = Path(__file__).resolve().parents[4]
interface = pytest.importorskip("vllm.v1.kv_cache_interface")
patches = pytest.importorskip("inference_server.vllm.patches")


def test_new_blocks_are_zeroed_in_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "needs_kv_cache_zeroing"
    # Kept, so that what is installed here is taken back.
    monkeypatch.setattr(interface.KVCacheConfig, name, property(lambda config: False))
    config = interface.KVCacheConfig(num_blocks=2, kv_cache_tensors=[], kv_cache_groups=[])
    assert not config.needs_kv_cache_zeroing
    patches.zero_new_blocks()
    assert config.needs_kv_cache_zeroing


def test_vllm_still_has_the_switch_and_looks_at_it() -> None:
    assert hasattr(interface.KVCacheConfig, "needs_kv_cache_zeroing")
    scheduler = pytest.importorskip("vllm.v1.core.sched.scheduler").Scheduler
    assert "kv_cache_config.needs_kv_cache_zeroing" in inspect.getsource(scheduler)


def test_every_scheduler_that_the_engine_asks_for_joins_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = pytest.importorskip("vllm.config").SchedulerConfig
    output = pytest.importorskip("vllm.v1.engine").EngineCoreOutput
    sampling = pytest.importorskip("vllm.sampling_params")

    class Scheduler:
        def __init__(self) -> None:
            params = sampling.SamplingParams(output_kind=sampling.RequestOutputKind.FINAL_ONLY)
            self.requests = {"a": SimpleNamespace(sampling_params=params)}

        def update_from_output(self, token: int) -> dict[int, Any]:
            return {0: SimpleNamespace(outputs=[output("a", [token])])}

    class AsyncScheduler(Scheduler):
        pass

    monkeypatch.setattr(config, "get_scheduler_cls", lambda chosen: chosen)
    for chosen in (Scheduler, AsyncScheduler, Scheduler):
        patches.join_outputs()
        made = config.get_scheduler_cls(chosen)()
        sent = [made.update_from_output(token)[0].outputs for token in range(20)]
        assert [[one.new_token_ids for one in step] for step in sent if step] == [[list(range(16))]]


def test_the_engine_asks_for_its_scheduler_there_and_gives_it_every_steps_output() -> None:
    core = inspect.getsource(pytest.importorskip("vllm.v1.engine.core"))
    assert "scheduler_config.get_scheduler_cls()" in core
    assert "self.scheduler.update_from_output(" in core


def test_the_installation_names_the_plugin_that_the_launcher_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["vllm.general_plugins"]
    assert plugins.keys() == {PATCHES_PLUGIN}
    found = EntryPoint(PATCHES_PLUGIN, plugins[PATCHES_PLUGIN], "vllm.general_plugins").load()
    assert found is patches.register
