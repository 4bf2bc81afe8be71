"""What a training run can be told: one frozen model a section, one field a decision.

Loads neither torch nor vllm, so ``--help`` is quick.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from regime_w import ArmSpec, RewardConfig, build_all_arms

GroupEstimator = Literal["rloo", "grpo"]
"""Estimators without a critic, by name; `trainer.ppo.advantages.GROUP_ESTIMATORS` computes them."""
AdvantageEstimator = Literal["gae", GroupEstimator]
KLEstimator = Literal["k1", "k2", "k3"]
LossReduction = Literal["token_mean", "sequence_mean"]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PolicyConfig(Section):
    """The base model and the adapter on it."""

    base_model: str = "models/tiny-base"
    """Folder or Hub id of the base model; the server must serve the same one."""
    adapter: Path | None = None
    """Folder of the adapter to start from (the SFT adapter); a fresh one where null."""
    lora_rank: Annotated[int, Field(ge=1)] = 16
    """Rank of a fresh adapter; at most the server's --max-lora-rank."""
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    """Alpha of a fresh adapter: its weights are scaled by alpha / rank."""
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Modules that a fresh adapter adapts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the frozen base; adapters are trained in float32."""
    quantization: Literal["nf4"] | None = None
    """`nf4` keeps the linear layers of the frozen base in 4 bits (QLoRA, by bitsandbytes) and computes in
    dtype. Serve what `python -m trainer dequantize` writes, and both sides have the same weights."""
    autocast: bool = False
    """PPO's passes through the model run in bfloat16 where torch.autocast does; weights keep their
    dtype."""
    gradient_checkpointing: bool = False
    """Keep no activations within a layer, compute them again in backward: less memory, more time."""


class DataConfig(Section):
    """The questions to train on."""

    source: str = "word-problems"
    """`word-problems` (built in), a JSONL file of {"question", "answer"} records, or a Hub dataset such
    as `openai/gsm8k:main`. SOURCE#train and SOURCE#held_out are two parts of it that never meet."""
    evaluation_source: str = "word-problems"
    """The same for the held-out questions of run.evaluate_every and of SFT's evaluation loss."""
    num_questions: Annotated[int, Field(ge=1)] = 20_000
    """How many distinct questions to use at most; a new shuffle begins when all were asked."""
    seed: int = 0
    """Seed of the generator and of the shuffles."""
    curriculum: Annotated[int, Field(ge=1)] | None = None
    """How many times in a row all arms must solve a question before it is asked less often: in every
    second epoch, then in every fourth, then in every eighth, until one of them fails. Null asks every
    question alike."""


class ServerConfig(Section):
    """How to reach the inference server."""

    url: str = "http://127.0.0.1:8000"
    """Base URL of the server."""
    api_key: SecretStr | None = Field(
        default_factory=lambda: (
            SecretStr(os.environ["REGIME_W_API_KEY"])
            if os.environ.get("REGIME_W_API_KEY")
            else None
        )
    )
    """Sent as a bearer token; from REGIME_W_API_KEY by default."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for one answer of the server; then the request is sent again."""
    give_up_after_s: Annotated[float, Field(ge=0)] = 600.0
    """How long requests are sent again while the server cannot be reached, fails, is full, restarts or
    loses what was pushed to it. After that the trainer writes a checkpoint and exits with code 3."""
    push_by_path: bool = False
    """Tell the server where an adapter lies instead of uploading it; needs a volume that both see under
    one path, and the server's --adapter-root."""


class RolloutConfig(Section):
    """What is generated for each step."""

    questions_per_step: Annotated[int, Field(ge=1)] = 8
    """Questions (groups of arms) of a step: PPO's batch."""
    samples_per_arm: Annotated[int, Field(ge=1)] = 1
    """Completions of every arm."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion; longer ones are truncated."""
    arms: tuple[ArmSpec, ...] | None = None
    """Custom arms; the eight of Regime W where null."""
    seed: int | None = None
    """Seed of the sampling, for reproducible rollouts; null costs the server nothing."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """How many versions behind a rollout may be when it is trained on. 0 waits for every rollout
    (strictly on-policy); 1 generates the next batch while this one trains."""
    refill_zero_variance: bool = False
    """Replace questions whose completions all earn the same, which teach nothing, by further ones: at
    most two for each question of a step. (DAPO's dynamic sampling, arXiv 2503.14476, section 3.2.)"""

    @property
    def resolved_arms(self) -> tuple[ArmSpec, ...]:
        """The arms that are asked: ``arms``, or the eight of Regime W."""
        return self.arms or build_all_arms()


class PPOConfig(Section):
    """The update."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """AdamW's, of the policy adapter."""
    critic_learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """AdamW's, of the critic's adapter and value head."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Of both learning rates: constant, or linear to zero over run.num_steps."""
    critic_warmup_steps: Annotated[int, Field(ge=0)] = 2
    """Steps that train the critic alone before the policy moves; none without a critic."""
    num_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over a step's completions."""
    questions_per_mini_batch: Annotated[int, Field(ge=1)] = 4
    """Questions of one optimizer step."""
    token_budget: Annotated[int, Field(ge=1)] = 8192
    """Most tokens of one forward pass, padding counted, what completions share counted once; bounds
    memory, changes no gradient."""
    advantage: AdvantageEstimator = "gae"
    """How a completion's tokens are credited: gae, by the critic; or against the other completions
    of the question and without a critic: rloo (less their mean), grpo (in standard deviations)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """GAE's discount."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """GAE's λ."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far the ratio may fall below 1 before the gradient stops."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio may rise above 1; more than clip_low keeps exploration alive."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """Bounds the loss of tokens with negative advantage and a huge ratio."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """How far the critic may move a value in one step."""
    max_importance_weight: Annotated[float, Field(ge=1)] = 2.0
    """Truncation of proximal/behaviour, the weight of what differs between trainer and server."""
    sequence_mask: Annotated[float, Field(gt=1)] | None = None
    """Leaves a completion out of the policy loss where the geometric mean of its proximal/behaviour
    ratios leaves [1/c, c]."""
    loss_reduction: LossReduction = "token_mean"
    """Both losses: the mean over the mini-batch's tokens, or over its completions' own means."""
    whiten_advantages: bool = True
    """Normalise GAE's advantages over the step's tokens; rloo and grpo have their own scale."""
    truncation: Literal["bootstrap", "mask"] = "bootstrap"
    """Truncated completions: bootstrapped by the critic (rloo and grpo, having none, take their
    reward as it is), or left out of the losses and of the comparison with others."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Start (or, where fixed, value) of the coefficient of the KL penalty to the reference."""
    kl_estimator: KLEstimator = "k1"
    """Schulman's estimator of a token's KL. k1 penalises the KL itself; k2 and k3 vary less, but
    as a reward their gradient is not the KL's."""
    adaptive_kl: bool = True
    """Steer the coefficient so that the KL of a completion stays near target_kl."""
    target_kl: Annotated[float, Field(gt=0)] = 0.1
    """KL to the reference in nats a completion that the adaptive coefficient aims at."""
    kl_horizon: Annotated[int, Field(ge=1)] = 10_000
    """Completions over which the adaptive coefficient corrects an error."""
    stop_kl: Annotated[float, Field(gt=0)] | None = None
    """Ends a step early: the first mini-batch on which the policy has moved by more nats a token
    is not applied, nor is any after it."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    max_logprob_mismatch: Annotated[float, Field(gt=0)] | None = None
    """Mean |trainer - server| logprob on tokens of one version above which the run stops: the server
    is not serving what was pushed. Null is 0.005 where both sides compute in float32, else 0.05."""


class RunConfig(Section):
    """Where a run lives and how long it is."""

    folder: Path = Path("runs/default")
    """The run's folder."""
    num_steps: Annotated[int, Field(ge=1)] = 100
    """Updates of the policy."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints that are kept, beside the first and the best one."""
    num_adapters: Annotated[int, Field(ge=1)] = 20
    """Newest adapters that are kept, beside the best one; at least rollout.max_staleness + 2."""
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations: greedy accuracy of the newest version on held-out questions, asked
    while training goes on. The best version's checkpoint is kept. Null never evaluates."""
    num_evaluation_questions: Annotated[int, Field(ge=1)] = 100
    """Held-out questions of an evaluation."""
    seed: int = 0
    """Seed of the trainer's own randomness."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the trainer; one beside a server on the same machine is best."""
    device: Device = "auto"
    """Where the trainer computes."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port on which Prometheus finds the newest step's metrics, at /metrics; null serves none, 0 takes a
    free one."""
    metrics_host: str = "127.0.0.1"
    """Address to listen on there. The metrics are open to whoever reaches it."""


class TrainConfig(Section):
    """Everything about an online PPO run."""

    policy: PolicyConfig = PolicyConfig()
    data: DataConfig = DataConfig()
    server: ServerConfig = Field(default_factory=ServerConfig)
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _adapters_outlive_their_rollouts(self) -> Self:
        if self.run.num_adapters < self.rollout.max_staleness + 2:
            raise ValueError(
                f"run.num_adapters = {self.run.num_adapters} must be at least "
                f"{self.rollout.max_staleness + 2}: rollout.max_staleness + 2"
            )
        return self

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        """Without differences within a group, rloo and grpo would silently train on nothing."""
        if self.ppo.advantage != "gae":
            reward = self.reward
            if reward.selection != "all":
                clash = f"reward.selection = {reward.selection} lets only one of them train"
            elif reward.credit == "shared":
                clash = "reward.credit = shared rewards all of them alike"
            else:
                return self
            raise ValueError(
                f"ppo.advantage = {self.ppo.advantage} compares a question's completions, but {clash}"
            )
        return self
