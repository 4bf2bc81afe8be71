"""The plugin of vLLM that installs the patches, and the switch by which it zeroes new blocks.

tests/integration/test_kv_cache.py shows what zeroing does.
"""

import inspect
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

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


def test_the_installation_names_the_plugin_that_the_launcher_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["vllm.general_plugins"]
    assert plugins.keys() == {PATCHES_PLUGIN}
    found = EntryPoint(PATCHES_PLUGIN, plugins[PATCHES_PLUGIN], "vllm.general_plugins").load()
    assert found is patches.register
