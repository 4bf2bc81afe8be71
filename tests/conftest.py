"""What tests of several parts stand on: one tiny base model, and roles on it that all differ."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from trainer.commands.tiny_model import TinyModelRecipe, build_tiny_model
from trainer.config.sections import PolicyConfig
from trainer.console.environment import prepare_environment
from trainer.model.roles import PolicyRoles, Role

# As the command line does; a server that a test starts inherits it.
prepare_environment()

# The model is so small that threads only cost; one also makes every sum's order the same.
torch.set_num_threads(1)

# How long an example takes is the machine's business, and never a reason to fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak",
        action="store_true",
        help="tests/chaos: tens of minutes of faults instead of a few",
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base model with random weights; tests only read it."""
    return build_tiny_model(
        tmp_path_factory.mktemp("models") / "base", TinyModelRecipe(num_steps=0)
    )


@pytest.fixture(scope="session")
def make_roles(tiny_base: Path) -> Callable[..., PolicyRoles]:
    """Makes roles on the tiny base whose adapters and value head are random and all different."""

    def make(*, seed: int = 0, serve_dtype: torch.dtype = torch.float32) -> PolicyRoles:
        config = PolicyConfig(base_model=str(tiny_base), lora_rank=4, lora_alpha=8)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            roles = PolicyRoles(config, device=torch.device("cpu"), serve_dtype=serve_dtype)
            parameters = [p for role in Role for p in roles.adapter_parameters(role)]
            for parameter in [*parameters, *roles.value_head.parameters()]:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return roles

    return make
