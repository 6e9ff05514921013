"""The Grafana boards as data: what is shown, in which unit, from which expressions.

Every metric is one of `/metrics`, of `infra/prometheus/rules.yaml`, or of Ray and vLLM as Ray
exports them, and each of ours is on a board or in a rule. `cluster/panels.py` draws them,
`cluster/dashboards.py` brings them to Grafana.
"""

from typing import Final

from cluster.board import WINDOW, Board, Row, line, number, quantile, rate, table

_MODEL: Final = 'model=~"$model"'
_FOUND: Final = 'found="yes"'

OVERVIEW: Final = Board(
    "mainspring-overview",
    "Overview",
    (
        Row("Now", (
            number("Requests", "reqps", "sum(mainspring:requests:rate5m)"),
            number("Failed, of an hour", "percentunit", "mainspring:errors:share1h", 0.001),
            number("Slow first tokens, of an hour", "percentunit",
                    "mainspring:slow_first_tokens:share1h", 0.05),
            number("Cost an hour", "currencyUSD", "sum(mainspring:cost_usd:rate1h)"),
            number("Approvals that wait", "none", "mainspring_approvals_waiting", 1),
            number("Runs parked", "none", 'sum(mainspring_runs{status="parked"})', 1),
            number("Nodes", "none", "sum(ray_cluster_active_nodes)"),
            number("Fullest budget", "percentunit", "max(mainspring_budget_used_share)", 0.9),
        )),
        Row("Promises", (
            line("Requests by status", "reqps",
                  ("sum by (status) (mainspring:requests:rate5m)", "{{status}}")),
            line("First token, p95", "s", ("mainspring:first_token_seconds:p95_5m", "{{model}}"),
                  about="95 % of first tokens come within a second"),
            line("How fast the error budget burns", "none",
                  ("mainspring:errors:share1h / 0.001", "an hour"),
                  ("mainspring:errors:share6h / 0.001", "six hours"),
                  ("mainspring:errors:share3d / 0.001", "three days"),
                  about="1 uses up the budget of 30 days in 30 days; 14.4 within an hour calls"),
            table("Alerts", "none", 'ALERTS{alertstate="firing"}', ""),
        )),
        Row("Work", (
            line("Turns that wait", "none",
                  ("sum by (priority) (mainspring_turns_waiting)", "{{priority}}")),
            line("Runs by status", "none", ("sum by (status) (mainspring_runs)", "{{status}}")),
            line("Recall, p95", "s", ("mainspring:recall_seconds:p95_5m", "recall")),
            line("KV cache in use", "percentunit", ("mainspring_engine_kv_usage", "{{model}}")),
        )),
    ),
)  # fmt: skip

MODELS: Final = Board(
    "mainspring-models",
    "Models and routing",
    (
        Row("Requests", (
            line("Requests", "reqps",
                  (rate("mainspring_requests_total", "model, status", _MODEL),
                   "{{model}} {{status}}")),
            line("In work", "none",
                  (f"sum by (model) (mainspring_in_work{{{_MODEL}}})", "{{model}}")),
            line("Passed to the next model", "reqps",
                  (rate("mainspring_fallbacks_total", "model", _MODEL), "{{model}}")),
            line("Replicas left alone", "none",
                  (f"sum by (model) (increase(mainspring_circuits_opened_total{{{_MODEL}}}[10m]))",
                   "{{model}}")),
        )),
        Row("Times", (
            line("First token, for the client", "s",
                  (quantile(0.5, "mainspring_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p50"),
                  (quantile(0.95, "mainspring_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p95")),
            line("First token, of the engine", "s",
                  (quantile(0.5, "mainspring_engine_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p50"),
                  (quantile(0.95, "mainspring_engine_time_to_first_byte_seconds", "model", _MODEL),
                   "{{model}} p95")),
            line("Before the engine: admission, routing, limits", "s",
                  (quantile(0.5, "mainspring_gateway_seconds", "model", _MODEL), "{{model}} p50"),
                  ("mainspring:gateway_seconds:p95_5m", "{{model}} p95")),
            line("Between two tokens, p95", "s",
                  (quantile(0.95, "mainspring_inter_token_seconds", "model", _MODEL),
                   "{{model}}")),
            line("Whole answers, p95", "s",
                  (quantile(0.95, "mainspring_engine_seconds", "model", _MODEL), "{{model}}")),
        )),
        Row("Engines", (
            line("Running and waiting", "none",
                  (f"mainspring_engine_running{{{_MODEL}}}", "{{model}} running"),
                  (f"mainspring_engine_waiting{{{_MODEL}}}", "{{model}} waiting")),
            line("KV cache in use", "percentunit",
                  (f"mainspring_engine_kv_usage{{{_MODEL}}}", "{{model}}")),
            line("Replicas that may be asked", "none",
                  (f"mainspring_engine_replicas{{{_MODEL}}}", "{{model}}")),
            line("Of late, as routing and scaling see it", "s",
                  (f"mainspring_engine_ttft_s{{{_MODEL}}}", "{{model}} first byte"),
                  (f"mainspring_engine_service_s{{{_MODEL}}}", "{{model}} last byte")),
            line("Tokens", "none",
                  (rate("mainspring_tokens_total", "model, direction", _MODEL),
                   "{{model}} {{direction}}")),
        )),
        Row("vLLM, on GPUs", (
            line("Prefixes found in the cache", "percentunit",
                  (f"sum(rate(ray_vllm_prefix_cache_hits_total{WINDOW}))"
                   f" / sum(rate(ray_vllm_prefix_cache_queries_total{WINDOW}))", "hits")),
            line("In the engine's queue, p95", "s",
                  (quantile(0.95, "ray_vllm_request_queue_time_seconds"), "queue")),
            line("Prompt and generated tokens", "none",
                  (f"sum(rate(ray_vllm_prompt_tokens_total{WINDOW}))", "prompt"),
                  (f"sum(rate(ray_vllm_generation_tokens_total{WINDOW}))", "generated")),
        )),
    ),
    ("model", "mainspring_requests_total"),
)  # fmt: skip

COST: Final = Board(
    "mainspring-cost",
    "Cost",
    (
        Row("Now", (
            number("Cost an hour", "currencyUSD", "sum(mainspring:cost_usd:rate1h)"),
            number("Cost of 24 hours", "currencyUSD",
                    "sum(increase(mainspring_cost_usd_total[24h]))"),
            number("A thousand requests", "currencyUSD",
                    "1000 * sum(increase(mainspring_cost_usd_total[24h]))"
                    " / sum(increase(mainspring_requests_total[24h]))"),
            number("A million tokens", "currencyUSD",
                    "1e6 * sum(increase(mainspring_cost_usd_total[24h]))"
                    " / sum(increase(mainspring_tokens_total[24h]))"),
        )),
        Row("Where it goes", (
            line("Cost an hour, by model", "currencyUSD",
                  ("mainspring:cost_usd:rate1h", "{{model}}")),
            line("Tokens, by model and direction", "none",
                  ("mainspring:tokens:rate5m", "{{model}} {{direction}}")),
            line("Spared by summaries, tokens", "none",
                  (f"sum(rate(mainspring_summary_tokens_saved_total{WINDOW}))", "tokens")),
        )),
        Row("Budgets", (
            table("Used, of each budget", "percentunit",
                   "sort_desc(mainspring_budget_used_share)",
                   "{{kind}} {{subject}} a {{period}}"),
            line("Used, over time", "percentunit",
                  ("topk(10, mainspring_budget_used_share)", "{{kind}} {{subject}} a {{period}}")),
        )),
    ),
)  # fmt: skip

AGENTS: Final = Board(
    "mainspring-agents",
    "Agents and approvals",
    (
        Row("A person is needed", (
            number("Approvals that wait", "none", "mainspring_approvals_waiting", 1),
            number("Runs parked", "none", 'sum(mainspring_runs{status="parked"})', 1),
            number("Effects parked, of a day", "none",
                    "sum(increase(mainspring_effects_parked_total[24h]))", 1),
            line("Approvals that wait, over time", "none",
                  ("mainspring_approvals_waiting", "approvals")),
        )),
        Row("Turns", (
            line("Waiting for a slot", "none",
                  ("sum by (priority) (mainspring_turns_waiting)", "{{priority}}")),
            line("How long they wait, p95", "s",
                  ("mainspring:turn_wait_seconds:p95_5m", "{{priority}}")),
            line("How long they take, p95", "s",
                  (quantile(0.95, "mainspring_turn_seconds", "outcome"), "{{outcome}}")),
            line("Begun on runs that had one before", "none",
                  (f"sum(rate(mainspring_runs_taken_up_total{WINDOW}))", "taken up")),
        )),
        Row("Steps", (
            line("Steps", "ops",
                  (rate("mainspring_step_seconds_count", "tool, outcome"),
                   "{{tool}} {{outcome}}")),
            line("From asking to receipt, p95", "s",
                  ("mainspring:step_seconds:p95_5m", "{{tool}}")),
            line("Runs by status", "none", ("sum by (status) (mainspring_runs)", "{{status}}")),
            line("Conversations summed up", "ops",
                  (rate("mainspring_summaries_total", "outcome"), "{{outcome}}")),
        )),
        Row("What came of runs", (
            line("Ended, a day", "none",
                  ("sum by (workflow, outcome) (increase(mainspring_run_outcomes_total[1d]))",
                   "{{workflow}} {{outcome}}")),
            line("From begin to end, p95", "s",
                  (quantile(0.95, "mainspring_run_seconds", "workflow"), "{{workflow}}")),
            line("What people answered, a day", "none",
                  ("sum by (workflow, answer) (increase(mainspring_run_answers_total[1d]))",
                   "{{workflow}} {{answer}}")),
            line("What customers thought, a day", "none",
                  ("sum by (workflow, score) (increase(mainspring_ticket_ratings_total[1d]))",
                   "{{workflow}} {{score}} of 5")),
            line("Turns that broke, a day", "none",
                  ("sum by (workflow) (increase(mainspring_run_broken_turns_total[1d]))",
                   "{{workflow}}")),
            line("From a broken turn until it got on, p95", "s",
                  (quantile(0.95, "mainspring_run_recovery_seconds", "workflow"),
                   "{{workflow}}")),
            line("Recalls that found something", "percentunit",
                  (f'{rate("mainspring_run_recalls_total", "workflow", _FOUND)}'
                   f' / {rate("mainspring_run_recalls_total", "workflow")}', "{{workflow}}")),
            line("Tokens a run", "none",
                  (f'{rate("mainspring_run_tokens_total", "workflow")}'
                   f' / {rate("mainspring_run_outcomes_total", "workflow")}', "{{workflow}}")),
            line("Cost a run", "currencyUSD",
                  (f'{rate("mainspring_run_usd_total", "workflow")}'
                   f' / {rate("mainspring_run_outcomes_total", "workflow")}', "{{workflow}}")),
        )),
    ),
)  # fmt: skip

MEMORY: Final = Board(
    "mainspring-memory",
    "Memory",
    (
        Row("Recall", (
            line("From a question to its hits", "s",
                  (quantile(0.5, "mainspring_memory_recall_seconds"), "p50"),
                  ("mainspring:recall_seconds:p95_5m", "p95")),
            line("Recalls", "ops",
                  (rate("mainspring_memory_recall_seconds_count", "answer"), "{{answer}}")),
            line("Nothing found, of an hour", "percentunit",
                  ("mainspring:recall_empty:share1h", "empty")),
            line("Hit rate on the frozen probes", "percentunit",
                  ("mainspring_memory_hit_rate", "{{tenant}} {{space}}")),
            number("Leaks held back, of a day", "none",
                    "sum(increase(mainspring_memory_leaks_total[24h]))", 1),
        )),
        Row("Writing", (
            line("To the acknowledgement, p95", "s",
                  (quantile(0.95, "mainspring_memory_write_seconds"), "write")),
            line("New and erased records", "none",
                  (f"sum(rate(mainspring_memory_remembered_records_total{WINDOW}))", "new"),
                  (rate("mainspring_memory_erased_records_total", "why"), "{{why}}")),
            line("On their way to the index", "none",
                  ("mainspring_memory_unflushed_rows", "rows")),
            line("How long the oldest has waited", "s",
                  ("mainspring_memory_flush_lag_seconds", "lag")),
        )),
        Row("What is there", (
            line("Records by tier", "none", ("mainspring_memory_records", "{{tier}}")),
            line("Records in each space", "none",
                  ("mainspring_memory_space_records", "{{space}} {{state}}")),
            table("At the last health check", "none", "mainspring_memory_condition_records",
                   "{{tenant}} {{what}}"),
            number("Since something was remembered", "s",
                    "mainspring_memory_newest_record_age_seconds"),
        )),
    ),
)  # fmt: skip

CLUSTER: Final = Board(
    "mainspring-cluster",
    "Cluster",
    (
        Row("Nodes", (
            number("Up", "none", "sum(ray_cluster_active_nodes)"),
            number("Coming up", "none", "sum(ray_cluster_pending_nodes)"),
            number("Failed", "none", "sum(ray_cluster_failed_nodes)", 1),
            line("By type", "none",
                  ("sum by (node_type) (ray_cluster_active_nodes)", "{{node_type}}")),
        )),
        Row("What they do", (
            line("CPU", "percent", ("ray_node_cpu_utilization", "{{instance}}")),
            line("Memory", "percentunit",
                  ("ray_node_mem_used / ray_node_mem_total", "{{instance}}")),
            line("GPU", "percent",
                  ("ray_node_gpus_utilization", "{{instance}} {{GpuIndex}}")),
            line("GPU memory", "percentunit",
                  ("ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                   "{{instance}} {{GpuIndex}}")),
            line("Disk free", "decbytes", ("ray_node_disk_free", "{{instance}}")),
            line("Network", "Bps",
                  ("ray_node_network_send_speed", "{{instance}} out"),
                  ("ray_node_network_receive_speed", "{{instance}} in")),
        )),
        Row("Ray", (
            line("Logical GPUs", "none",
                  ('sum by (State) (ray_resources{Name="GPU"})', "{{State}}")),
            line("Logical CPUs", "none",
                  ('sum by (State) (ray_resources{Name="CPU"})', "{{State}}")),
            line("Actors", "none", ("sum by (State) (ray_actors)", "{{State}}")),
            line("Object store", "decbytes",
                  ("sum by (Location) (ray_object_store_memory)", "{{Location}}")),
        )),
        Row("Serve", (
            line("Healthy replicas", "none",
                  ("sum by (deployment) (ray_serve_deployment_replica_healthy)",
                   "{{deployment}}")),
            line("Queued calls", "none",
                  ("sum by (deployment) (ray_serve_deployment_queued_queries)", "{{deployment}}")),
        )),
    ),
)  # fmt: skip

BOARDS: Final = (OVERVIEW, MODELS, COST, AGENTS, MEMORY, CLUSTER)
