"""The panels of the Grafana dashboards, which scripts/grafana_dashboard.py writes."""

from dataclasses import dataclass

from trainer.console.metrics_endpoint import gauge_name


@dataclass(frozen=True)
class Query:
    """A PromQL expression and what its curves are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel; the catalog's metrics that name it come before its own queries."""

    title: str
    unit: str = "short"
    """Grafana's name of the unit."""
    description: str = ""
    min: float | None = None
    max: float | None = None
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True)
class PanelGroup:
    """Panels below a heading, from left to right."""

    title: str
    panels: tuple[Panel, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8


@dataclass(frozen=True)
class Dashboard:
    """A dashboard from top to bottom."""

    file: str
    """Its name in deploy/grafana/dashboards."""
    uid: str
    title: str
    groups: tuple[PanelGroup, ...]


def _quantiles(histogram: str) -> tuple[Query, Query]:
    """Median and 95th percentile of a histogram."""
    rates = f"sum by (le) (rate({histogram}_bucket[1m]))"
    return (
        Query(f"histogram_quantile(0.5, {rates})", "median"),
        Query(f"histogram_quantile(0.95, {rates})", "95 %"),
    )


_AGE = f"time() - {gauge_name('last_step_timestamp_seconds')}"

# A table is read by its rows, so it keeps its own line breaks.
# fmt: off
TRAINING = (
    PanelGroup("Where the run is", kind="stat", width=4, height=4, panels=(
        Panel("Step"),
        Panel("Steps in all", queries=(Query(gauge_name("num_steps"), "steps"),)),
        Panel("Since the newest step", "s", "Grows without end if a run hangs.", queries=(Query(_AGE, "age"),)),
        Panel("Version, trainer"),
        Panel("Version, server", queries=(Query("regime_w_active_version", "active"),)),
        Panel("Services up", description="Two: inference and trainer.", queries=(Query("sum(up)", "up"),)),
    )),
    PanelGroup("Is it learning?", (
        Panel("Reward"),
        Panel("Correct and answered", "percentunit", "The last curve needs run.evaluate_every.", min=0, max=1),
        Panel("Reward by arm"),
        Panel("Scores", min=0, max=1),
        Panel("Groups that teach nothing", "percentunit", min=0, max=1),
        Panel("Length of completions"),
    )),
    PanelGroup("Is the update sound?", (
        Panel("KL to the reference"),
        Panel("KL coefficient"),
        Panel("Entropy"),
        Panel("Clipping and truncation", "percentunit", min=0),
        Panel("Movement in a step"),
        Panel("Critic"),
    )),
    PanelGroup("Do trainer and server agree?", (
        Panel("Mismatch of logprobs", description="Mean difference between the trainer's logprob of a sampled token and the server's, in nats."),
        Panel("Staleness", min=0),
        Panel("Groups lost or replaced", min=0),
    )),
    PanelGroup("Who waits for whom?", (
        Panel("Waiting", "percentunit", "The side that waits less is the bottleneck.", min=0, max=1),
        Panel("A step's time", "s", min=0),
        Panel("Generation", description="Tokens per second.", min=0, queries=(
            Query("sum(rate(regime_w_completion_tokens_total[1m]))", "as the server counts"),)),
    )),
    PanelGroup("The server's part", (
        Panel("Groups in flight", min=0, queries=(Query("regime_w_groups_in_flight", "{{priority}}"),)),
        Panel("Time of a group", "s", description="From its start in the engine to its last completion, without its wait for a place.", min=0, queries=_quantiles("regime_w_group_seconds")),
        Panel("Tokens by arm", min=0, queries=(Query("rate(regime_w_completion_tokens_total[1m])", "{{arm}}"),)),
        Panel("Versions and leases", min=0, queries=(
            Query("regime_w_versions", "versions held"),
            Query("regime_w_leases", "requests in flight on them"))),
        Panel("Time of a push", "s", min=0, queries=_quantiles("regime_w_push_seconds")),
        Panel("Refused requests", "reqps", min=0, queries=(
            Query("rate(regime_w_rejects_total[1m])", "{{type}}"),
            Query("rate(regime_w_completions_total[1m])", "completions: {{finish_reason}}"))),
    )),
    PanelGroup("Several servers", width=12, panels=(
        Panel("Groups by server", description="Of the newest step. With one server, this panel and the next are empty.", min=0),
        Panel("Servers asked", min=0),
    )),
)
ENGINE = (
    PanelGroup("Load", (
        Panel("Requests", min=0, queries=(
            Query("sum(vllm:num_requests_running)", "running"),
            Query("sum(vllm:num_requests_waiting)", "waiting"))),
        Panel("Key-value cache", "percentunit", min=0, max=1, queries=(
            Query("avg(vllm:kv_cache_usage_perc)", "in use"),)),
        Panel("Preemptions", description="More than a few: the cache is too small for what runs.", min=0, queries=(
            Query("sum(rate(vllm:num_preemptions_total[1m]))", "a second"),)),
    )),
    PanelGroup("Throughput", (
        Panel("Tokens", min=0, queries=(
            Query("sum(rate(vllm:generation_tokens_total[1m]))", "generated"),
            Query("sum(rate(vllm:prompt_tokens_total[1m]))", "of prompts"))),
        Panel("Prefix cache hits", "percentunit", min=0, max=1, queries=(
            Query("sum(rate(vllm:prefix_cache_hits_total[1m])) / sum(rate(vllm:prefix_cache_queries_total[1m]))", "share of prompt tokens"),)),
        Panel("Tokens of a completion", min=0, queries=_quantiles("vllm:request_generation_tokens")),
    )),
    PanelGroup("Latency", (
        Panel("To the first token", "s", min=0, queries=_quantiles("vllm:time_to_first_token_seconds")),
        Panel("For each token of a completion", "s", min=0, queries=_quantiles("vllm:request_time_per_output_token_seconds")),
        Panel("Whole request", "s", min=0, queries=_quantiles("vllm:e2e_request_latency_seconds")),
        Panel("In the queue", "s", min=0, queries=_quantiles("vllm:request_queue_time_seconds")),
        Panel("Requests by what ended them", "reqps", min=0, queries=(
            Query("sum by (finished_reason) (rate(vllm:request_success_total[1m]))", "{{finished_reason}}"),)),
        Panel("Memory of the server's process", "bytes", min=0, queries=(
            Query('process_resident_memory_bytes{job="inference"}', "resident"),)),
    )),
)
# fmt: on
DASHBOARDS = (
    Dashboard("regime-w.json", uid="regime-w", title="training", groups=TRAINING),
    Dashboard("vllm.json", uid="regime-w-engine", title="vLLM engine", groups=ENGINE),
)
