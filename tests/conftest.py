"""Fixtures that tests of several parts share: a tiny base model, a server on it, and roles on it that all differ."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from inference_server.launch.launcher import ROOT_LOG_LEVEL_VARIABLE
from inference_server.launch.server_process import ServerProcess, running_server
from tests.rounding import default_dtype, in_float64
from trainer.config.sections import PolicyConfig
from trainer.console.environment import prepare_environment
from trainer.model.roles import PolicyRoles, Role
from trainer.tiny_model.build import build_tiny_model
from trainer.tiny_model.pretraining import TinyModelRecipe

# As the command line does; a server that a test starts inherits it.
prepare_environment()
# As the server does, before a test imports vLLM: later tests of log lines may run in the same process.
os.environ.setdefault(ROOT_LOG_LEVEL_VARIABLE, "WARNING")

SERVER_FLAGS = ["--max-model-len", "256"]

# The model is so small that more threads only cost time; a single one also fixes the order of every sum.
torch.set_num_threads(1)

# How long an example takes depends on the machine, and is never a reason to fail.
settings.register_profile("untimed", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)  # of `make unit`
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        action="store_true",
        help="tests/chaos: tens of minutes of faults instead of a few",
    )


def pytest_configure() -> None:
    # On SIGTERM the suite ends as if it were interrupted, so that fixtures stop their servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses a model as slow: `make unit` leaves it to `make test`."""
    for item in items:
        if {"tiny_base", "make_roles"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs a GPU on a machine without one, and says which test it is."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip(f"{item.name}: this machine has no CUDA GPU")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base model with random weights; tests only read it."""
    return build_tiny_model(
        tmp_path_factory.mktemp("models") / "base", TinyModelRecipe(num_steps=0)
    )


@pytest.fixture(scope="session")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server on the tiny base, for every test that leaves it running.

    All of these tests share its versions: each takes version numbers from `ServerStatus.next_version` on.
    """
    folder = tmp_path_factory.mktemp("server")
    with running_server(
        model=tiny_base,
        log_path=folder / "server.log",
        flags=[*SERVER_FLAGS, "--state-dir", str(folder / "state")],
    ) as running:
        yield running


@pytest.fixture(scope="session")
def make_roles(tiny_base: Path) -> Callable[..., PolicyRoles]:
    """Makes roles on the tiny base whose adapters and value head are random and all different.

    ``dtype=torch.float64`` makes the same roles in double precision, to be used `in_float64`.
    """
    config = PolicyConfig(base_model=str(tiny_base), lora_rank=4, lora_alpha=8)

    def make(
        *,
        seed: int = 0,
        serve_dtype: torch.dtype = torch.float32,
        dtype: torch.dtype = torch.float32,
    ) -> PolicyRoles:
        with default_dtype(torch.float32), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            roles = PolicyRoles(config, device=torch.device("cpu"), serve_dtype=serve_dtype)
            parameters = [p for role in Role for p in roles.adapter_parameters(role)]
            for parameter in [*parameters, *roles.value_head.parameters()]:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return roles if dtype is torch.float32 else in_double(roles)

    def in_double(roles: PolicyRoles) -> PolicyRoles:
        # The configuration does not allow float64: these roles only serve to judge the others.
        double = config.model_copy(update={"dtype": "float64"})
        with in_float64():
            exact = PolicyRoles(double, device=roles.device, serve_dtype=roles.serve_dtype)
        for role in Role:
            exact.load_adapter_state(role, roles.adapter_state(role))
        exact.value_head.load_state_dict(roles.value_head.state_dict())
        return exact

    return make
