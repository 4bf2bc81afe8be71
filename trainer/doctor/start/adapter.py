"""Checks the adapter that a run starts from."""

from trainer.config.sections import DoctorConfig, PolicyConfig
from trainer.doctor.results import CheckResult, bad
from trainer.errors import UsageError
from trainer.model.adapter import readable_adapter
from trainer.model.adapter_files import shaped_as_adapter
from trainer.run_state.run_folder import start_of


def starting_policy(
    config: DoctorConfig, *, reads_weights: bool
) -> tuple[PolicyConfig, CheckResult | None]:
    """The policy with the shape of its starting adapter, and a result if `train` would refuse the adapter.

    A run that has begun has its own copy, whatever has become of ``policy.adapter``. If the adapter's configuration
    cannot be read, the policy is without one.

    Args:
        config: The run's configuration.
        reads_weights: Whether to check the adapter's weights, too.
    """
    policy = start_of(config, config.run.folder)
    try:
        policy = shaped_as_adapter(policy)
    except UsageError as error:
        flaw = bad("adapter", str(error), "policy.adapter")
        return policy.model_copy(update={"adapter": None}), flaw
    if reads_weights and policy.adapter is not None:
        try:
            readable_adapter(policy.adapter)
        except UsageError as error:
            return policy, bad("adapter", str(error), "policy.adapter")
    return policy, None
