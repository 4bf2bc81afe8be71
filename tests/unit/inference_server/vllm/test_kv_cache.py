"""The switch by which vLLM zeroes new blocks; tests/integration/test_kv_cache.py shows what it does."""

import inspect

import pytest

interface = pytest.importorskip("vllm.v1.kv_cache_interface")
kv_cache = pytest.importorskip("inference_server.vllm.kv_cache")


def test_new_blocks_are_zeroed_in_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "needs_kv_cache_zeroing"
    # Kept, so that what is installed here is taken back.
    monkeypatch.setattr(interface.KVCacheConfig, name, property(lambda config: False))
    config = interface.KVCacheConfig(num_blocks=2, kv_cache_tensors=[], kv_cache_groups=[])
    assert not config.needs_kv_cache_zeroing
    kv_cache.install()
    assert config.needs_kv_cache_zeroing


def test_vllm_still_has_the_switch_and_looks_at_it() -> None:
    assert hasattr(interface.KVCacheConfig, "needs_kv_cache_zeroing")
    scheduler = pytest.importorskip("vllm.v1.core.sched.scheduler").Scheduler
    assert "kv_cache_config.needs_kv_cache_zeroing" in inspect.getsource(scheduler)
