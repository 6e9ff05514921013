"""The Grafana boards as data: what is shown, in which unit, from which expressions.

Every metric is one of `/metrics`, of `infra/prometheus/rules.yaml`, or of Ray and vLLM as Ray
exports them. `cluster/panels.py` draws them, `cluster/dashboards.py` brings them to Grafana.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["line", "number", "table"]

_W: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One picture. `queries` are pairs of an expression and how its lines are called; `unit` is
    one of Grafana's ids. From `warn` on, where there is one, it turns red."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Kind = "line"
    warn: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """`variable` is a pair of a label and the metric whose values of it can be chosen."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variable: tuple[str, str] | None = None

    @property
    def expressions(self) -> list[str]:
        return [e for row in self.rows for panel in row.panels for e, _ in panel.queries]


def _line(title: str, unit: str, *queries: tuple[str, str], about: str = "") -> Panel:
    return Panel(title, unit, queries, about=about)


def _number(title: str, unit: str, expression: str, warn: float | None = None) -> Panel:
    return Panel(title, unit, ((expression, ""),), "number", warn)


def _table(title: str, unit: str, expression: str, legend: str) -> Panel:
    return Panel(title, unit, ((expression, legend),), "table")


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}{_W}))"


def _quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', labels, where)})"


_MODEL: Final = 'model=~"$model"'

OVERVIEW: Final = Board(
    "mainspring-overview",
    "Overview",
    (
        Row("Now", (
            _number("Requests", "reqps", "sum(mainspring:requests:rate5m)"),
            _number("Failed, of an hour", "percentunit", "mainspring:errors:share1h", 0.001),
            _number("Slow first tokens, of an hour", "percentunit",
                    "mainspring:slow_first_tokens:share1h", 0.05),
            _number("Cost an hour", "currencyUSD", "sum(mainspring:cost_usd:rate1h)"),
            _number("Approvals that wait", "none", "mainspring_approvals_waiting", 1),
            _number("Runs parked", "none", 'sum(mainspring_runs{status="parked"})', 1),
            _number("Nodes", "none", "sum(ray_cluster_active_nodes)"),
            _number("Fullest budget", "percentunit", "max(mainspring_budget_used_share)", 0.9),
        )),
        Row("Promises", (
            _line("Requests by status", "reqps",
                  ("sum by (status) (mainspring:requests:rate5m)", "{{status}}")),
            _line("First token, p95", "s", ("mainspring:first_token_seconds:p95_5m", "{{model}}"),
                  about="95 % of first tokens come within a second"),
            _line("How fast the error budget burns", "none",
                  ("mainspring:errors:share1h / 0.001", "an hour"),
                  ("mainspring:errors:share6h / 0.001", "six hours"),
                  ("mainspring:errors:share3d / 0.001", "three days"),
                  about="1 uses up the budget of 30 days in 30 days; 14.4 within an hour calls"),
            _table("Alerts", "none", 'ALERTS{alertstate="firing"}', ""),
        )),
        Row("Work", (
            _line("Turns that wait", "none",
                  ("sum by (priority) (mainspring_turns_waiting)", "{{priority}}")),
            _line("Runs by status", "none", ("sum by (status) (mainspring_runs)", "{{status}}")),
            _line("Recall, p95", "s", ("mainspring:recall_seconds:p95_5m", "recall")),
            _line("KV cache in use", "percentunit", ("mainspring_engine_kv_usage", "{{model}}")),
        )),
    ),
)  # fmt: skip

MODELS: Final = Board(
    "mainspring-models",
    "Models and routing",
    (
        Row("Requests", (
            _line("Requests", "reqps",
                  (_rate("mainspring_requests_total", "model, status", _MODEL),
                   "{{model}} {{status}}")),
            _line("In work", "none",
                  (f"sum by (model) (mainspring_in_work{{{_MODEL}}})", "{{model}}")),
            _line("Passed to the next model", "reqps",
                  (_rate("mainspring_fallbacks_total", "model", _MODEL), "{{model}}")),
            _line("Replicas left alone", "none",
                  (f"sum by (model) (increase(mainspring_circuits_opened_total{{{_MODEL}}}[10m]))",
                   "{{model}}")),
        )),
        Row("Times", (
            _line("First token, for the client", "s",
                  (_quantile(0.5, "mainspring_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p50"),
                  (_quantile(0.95, "mainspring_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p95")),
            _line("First token, of the engine", "s",
                  (_quantile(0.5, "mainspring_engine_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p50"),
                  (_quantile(0.95, "mainspring_engine_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p95")),
            _line("Before the engine: admission, routing, limits", "s",
                  (_quantile(0.5, "mainspring_gateway_seconds", "model", _MODEL), "{{model}} p50"),
                  ("mainspring:gateway_seconds:p95_5m", "{{model}} p95")),
            _line("Between two tokens, p95", "s",
                  (_quantile(0.95, "mainspring_inter_token_seconds", "model", _MODEL),
                   "{{model}}")),
            _line("Whole answers, p95", "s",
                  (_quantile(0.95, "mainspring_engine_seconds", "model", _MODEL), "{{model}}")),
        )),
        Row("Engines", (
            _line("Running and waiting", "none",
                  (f"mainspring_engine_running{{{_MODEL}}}", "{{model}} running"),
                  (f"mainspring_engine_waiting{{{_MODEL}}}", "{{model}} waiting")),
            _line("KV cache in use", "percentunit",
                  (f"mainspring_engine_kv_usage{{{_MODEL}}}", "{{model}}")),
            _line("Replicas that may be asked", "none",
                  (f"mainspring_engine_replicas{{{_MODEL}}}", "{{model}}")),
            _line("Tokens", "none",
                  (_rate("mainspring_tokens_total", "model, direction", _MODEL),
                   "{{model}} {{direction}}")),
        )),
        Row("vLLM, on GPUs", (
            _line("Prefixes found in the cache", "percentunit",
                  (f"sum(rate(ray_vllm_prefix_cache_hits_total{_W}))"
                   f" / sum(rate(ray_vllm_prefix_cache_queries_total{_W}))", "hits")),
            _line("In the engine's queue, p95", "s",
                  (_quantile(0.95, "ray_vllm_request_queue_time_seconds"), "queue")),
            _line("Prompt and generated tokens", "none",
                  (f"sum(rate(ray_vllm_prompt_tokens_total{_W}))", "prompt"),
                  (f"sum(rate(ray_vllm_generation_tokens_total{_W}))", "generated")),
        )),
    ),
    ("model", "mainspring_requests_total"),
)  # fmt: skip

COST: Final = Board(
    "mainspring-cost",
    "Cost",
    (
        Row("Now", (
            _number("Cost an hour", "currencyUSD", "sum(mainspring:cost_usd:rate1h)"),
            _number("Cost of 24 hours", "currencyUSD",
                    "sum(increase(mainspring_cost_usd_total[24h]))"),
            _number("A thousand requests", "currencyUSD",
                    "1000 * sum(increase(mainspring_cost_usd_total[24h]))"
                    " / sum(increase(mainspring_requests_total[24h]))"),
            _number("A million tokens", "currencyUSD",
                    "1e6 * sum(increase(mainspring_cost_usd_total[24h]))"
                    " / sum(increase(mainspring_tokens_total[24h]))"),
        )),
        Row("Where it goes", (
            _line("Cost an hour, by model", "currencyUSD",
                  ("mainspring:cost_usd:rate1h", "{{model}}")),
            _line("Tokens, by model and direction", "none",
                  ("mainspring:tokens:rate5m", "{{model}} {{direction}}")),
            _line("Spared by summaries, tokens", "none",
                  (f"sum(rate(mainspring_summary_tokens_saved_total{_W}))", "tokens")),
        )),
        Row("Budgets", (
            _table("Used, of each budget", "percentunit",
                   "sort_desc(mainspring_budget_used_share)",
                   "{{kind}} {{subject}} a {{period}}"),
            _line("Used, over time", "percentunit",
                  ("topk(10, mainspring_budget_used_share)", "{{kind}} {{subject}} a {{period}}")),
        )),
    ),
)  # fmt: skip

AGENTS: Final = Board(
    "mainspring-agents",
    "Agents and approvals",
    (
        Row("A person is needed", (
            _number("Approvals that wait", "none", "mainspring_approvals_waiting", 1),
            _number("Runs parked", "none", 'sum(mainspring_runs{status="parked"})', 1),
            _number("Effects parked, of a day", "none",
                    "sum(increase(mainspring_effects_parked_total[24h]))", 1),
            _line("Approvals that wait, over time", "none",
                  ("mainspring_approvals_waiting", "approvals")),
        )),
        Row("Turns", (
            _line("Waiting for a slot", "none",
                  ("sum by (priority) (mainspring_turns_waiting)", "{{priority}}")),
            _line("How long they wait, p95", "s",
                  ("mainspring:turn_wait_seconds:p95_5m", "{{priority}}")),
            _line("How long they take, p95", "s",
                  (_quantile(0.95, "mainspring_turn_seconds", "outcome"), "{{outcome}}")),
            _line("Begun on runs that had one before", "none",
                  (f"sum(rate(mainspring_runs_taken_up_total{_W}))", "taken up")),
        )),
        Row("Steps", (
            _line("Steps", "ops",
                  (_rate("mainspring_step_seconds_count", "tool, outcome"),
                   "{{tool}} {{outcome}}")),
            _line("From asking to receipt, p95", "s",
                  ("mainspring:step_seconds:p95_5m", "{{tool}}")),
            _line("Runs by status", "none", ("sum by (status) (mainspring_runs)", "{{status}}")),
            _line("Conversations summed up", "ops",
                  (_rate("mainspring_summaries_total", "outcome"), "{{outcome}}")),
        )),
    ),
)  # fmt: skip

MEMORY: Final = Board(
    "mainspring-memory",
    "Memory",
    (
        Row("Recall", (
            _line("From a question to its hits", "s",
                  (_quantile(0.5, "mainspring_memory_recall_seconds"), "p50"),
                  ("mainspring:recall_seconds:p95_5m", "p95")),
            _line("Recalls", "ops",
                  (_rate("mainspring_memory_recall_seconds_count", "answer"), "{{answer}}")),
            _line("Nothing found, of an hour", "percentunit",
                  ("mainspring:recall_empty:share1h", "empty")),
            _line("Hit rate on the frozen probes", "percentunit",
                  ("mainspring_memory_hit_rate", "{{tenant}} {{space}}")),
            _number("Leaks held back, of a day", "none",
                    "sum(increase(mainspring_memory_leaks_total[24h]))", 1),
        )),
        Row("Writing", (
            _line("To the acknowledgement, p95", "s",
                  (_quantile(0.95, "mainspring_memory_write_seconds"), "write")),
            _line("New and erased records", "none",
                  (f"sum(rate(mainspring_memory_remembered_records_total{_W}))", "new"),
                  (_rate("mainspring_memory_erased_records_total", "why"), "{{why}}")),
            _line("On their way to the index", "none",
                  ("mainspring_memory_unflushed_rows", "rows")),
            _line("How long the oldest has waited", "s",
                  ("mainspring_memory_flush_lag_seconds", "lag")),
        )),
        Row("What is there", (
            _line("Records by tier", "none", ("mainspring_memory_records", "{{tier}}")),
            _line("Records in each space", "none",
                  ("mainspring_memory_space_records", "{{space}} {{state}}")),
            _table("At the last health check", "none", "mainspring_memory_condition_records",
                   "{{tenant}} {{what}}"),
            _number("Since something was remembered", "s",
                    "mainspring_memory_newest_record_age_seconds"),
        )),
    ),
)  # fmt: skip

CLUSTER: Final = Board(
    "mainspring-cluster",
    "Cluster",
    (
        Row("Nodes", (
            _number("Up", "none", "sum(ray_cluster_active_nodes)"),
            _number("Coming up", "none", "sum(ray_cluster_pending_nodes)"),
            _number("Failed", "none", "sum(ray_cluster_failed_nodes)", 1),
            _line("By type", "none",
                  ("sum by (node_type) (ray_cluster_active_nodes)", "{{node_type}}")),
        )),
        Row("What they do", (
            _line("CPU", "percent", ("ray_node_cpu_utilization", "{{instance}}")),
            _line("Memory", "percentunit",
                  ("ray_node_mem_used / ray_node_mem_total", "{{instance}}")),
            _line("GPU", "percent",
                  ("ray_node_gpus_utilization", "{{instance}} {{GpuIndex}}")),
            _line("GPU memory", "percentunit",
                  ("ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                   "{{instance}} {{GpuIndex}}")),
            _line("Disk free", "decbytes", ("ray_node_disk_free", "{{instance}}")),
            _line("Network", "Bps",
                  ("ray_node_network_send_speed", "{{instance}} out"),
                  ("ray_node_network_receive_speed", "{{instance}} in")),
        )),
        Row("Ray", (
            _line("Logical GPUs", "none",
                  ('sum by (State) (ray_resources{Name="GPU"})', "{{State}}")),
            _line("Logical CPUs", "none",
                  ('sum by (State) (ray_resources{Name="CPU"})', "{{State}}")),
            _line("Actors", "none", ("sum by (State) (ray_actors)", "{{State}}")),
            _line("Object store", "decbytes",
                  ("sum by (Location) (ray_object_store_memory)", "{{Location}}")),
        )),
        Row("Serve", (
            _line("Healthy replicas", "none",
                  ("sum by (deployment) (ray_serve_deployment_replica_healthy)",
                   "{{deployment}}")),
            _line("Queued calls", "none",
                  ("sum by (deployment) (ray_serve_deployment_queued_queries)", "{{deployment}}")),
        )),
    ),
)  # fmt: skip

BOARDS: Final = (OVERVIEW, MODELS, COST, AGENTS, MEMORY, CLUSTER)
