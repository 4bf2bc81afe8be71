"""The trainer's errors, as one tree. The command line prints an error as one line and exits with its code.

Exit code 2 means that the user has to fix something. Exit code 3 means that the cause may pass by itself: the same
command resumes where it stopped, so a supervisor may run it again.

TrainerError
├── UsageError             a flag, a key or a file that the user can fix
│   └── DataError          a record; names the file and the line
├── CheckpointError        a checkpoint that cannot be resumed from
├── JournalError           a step of the journal that cannot be recomputed
├── SyncError              the server serves something other than what was pushed
├── NonFiniteError         a number or a gradient is NaN or infinite (code 3 the first time in a step)
├── OutOfMemoryError       a step does not fit into the GPU, even with micro-batches of half the size
├── RewardFunctionError    a function of reward.functions raises, hangs or returns something that is not a reward
├── RankLostError          the processes of a multi-process job cannot go on together, since another has ended
│   └── RankOutOfMemoryError   … since this one is out of GPU memory, and the others are not
├── DiskFullError          there is no space left for the run's folder
└── ServerError            between this process and the server
    ├── ServerUnreachableError
    └── ServerRejectedError    an answer with an error
        ├── NotFoundError      404: the server has no such version
        └── ConflictError      409: another adapter has the number, or requests are in flight
"""

from pathlib import Path


class TrainerError(Exception):
    """Base of all these errors; the message is one line that says what happened and what to do."""

    exit_code = 2


class UsageError(TrainerError):
    """The user asked for something that cannot be done."""


class DataError(UsageError):
    """Data that cannot be used."""


class CheckpointError(TrainerError):
    """A checkpoint is damaged, or belongs to another base model or adapter shape."""


class JournalError(TrainerError):
    """The journal's record of a step is missing or damaged."""

    def __init__(self, step: int, what: str):
        super().__init__(f"step {step}: {what}")
        self.step = step
        self.what = what


class SyncError(TrainerError):
    """The server serves something other than what was pushed, or than what the trainer trains."""


class OutOfMemoryError(TrainerError):
    """A step does not fit into the GPU's memory; weights and optimizers are as they were before it."""

    def __init__(self, token_budget: int, *, plan: str = ""):
        """Name the settings that lower the peak.

        Args:
            token_budget: The number of tokens of the micro-batch that did not fit.
            plan: What the memory plan estimates for it; empty if there is no estimate.
        """
        super().__init__(
            f"out of GPU memory with micro-batches of {token_budget} tokens, after they had been halved"
            f"{f' ({plan})' if plan else ''}: lower "
            "ppo.token_budget, or set policy.gradient_checkpointing = true; the same command then resumes the "
            "run. `trainer doctor` plans the memory of both services"
        )
        self.token_budget = token_budget


class NonFiniteError(TrainerError):
    """A number is NaN or infinite; nothing of the step is kept."""

    def __init__(
        self,
        what: str,
        *,
        outcome: str = "weights and optimizers are as they were before the step",
        kept_in: Path | None = None,
        may_pass: bool = False,
    ):
        """Say which numbers are not finite, that nothing was lost, and where the step's rollouts are.

        Args:
            what: Which numbers are not finite.
            outcome: What is left, and what to do.
            kept_in: Folder of the step's rollouts.
            may_pass: Whether the step has not failed before, so that running the same command again may help.
        """
        message = f"{what}; {outcome}"
        if kept_in is not None:
            message += f"; its rollouts and the policy before it are in {kept_in}"
        if may_pass:
            message += "; the same command asks its questions once more"
            self.exit_code = 3
        super().__init__(message)
        self.what = what


class RewardFunctionError(TrainerError):
    """A function of ``reward.functions`` cannot be used; if it raised or hung, a note has its traceback."""


class RankLostError(TrainerError):
    """Another process of the job has ended or is out of step; this process keeps all that it had learned."""

    exit_code = 3


class RankOutOfMemoryError(RankLostError):
    """This process of the job is out of GPU memory, and out of step with the others, which are not."""

    exit_code = 2

    def __init__(self, rank: int):
        super().__init__(
            f"rank {rank} of this job is out of GPU memory, and cannot do the step again in halves without the "
            "other ranks: lower ppo.token_budget, or set policy.gradient_checkpointing = true; the same command "
            "then resumes the run"
        )


class DiskFullError(TrainerError):
    """There is no space left on the disk; what is finished is whole, and the same command can be started again."""

    exit_code = 3

    def __init__(self, folder: Path | str):
        super().__init__(
            f"no space left on the disk of {folder}; what is finished in it is whole: free some space, and "
            "start the same command again"
        )


class ServerError(TrainerError):
    """The communication between this process and the server failed."""

    exit_code = 3


class ServerUnreachableError(ServerError):
    """No answer within the time that the configuration allows."""


class ServerRejectedError(ServerError):
    """The server answered with an error; repeating the request would not help."""

    exit_code = 2

    def __init__(self, status: int, message: str, param: str | None = None):
        super().__init__(f"the server answered {status}: {message}")
        self.status = status
        self.param = param


class NotFoundError(ServerRejectedError):
    """The server has not, or no longer, what the request names, such as a version."""


class ConflictError(ServerRejectedError):
    """What the server has stands against the request, such as another adapter under the same number."""


BETWEEN_STEPS = (
    ServerError,
    SyncError,
    NonFiniteError,
    OutOfMemoryError,
    RankLostError,
    RewardFunctionError,
)
"""Errors that end a run between two steps, so that the finished steps can be saved."""
