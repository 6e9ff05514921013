"""The one Settings object. Its docstring is the manual.

A profile is a YAML file (`infra/profiles/NAME.yaml`, or any path). Environment variables override
it: `MAINSPRING_GATEWAY__PORT=9000` sets `gateway.port`. `MAINSPRING_PROFILE` names the profile
(default `local`). A wrong value stops the start with the field's name, the value and what would
be right. Workers never read the environment: they receive their section as a value.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from cluster.errors import ConfigError

ENV_PREFIX = "MAINSPRING_"
# MAINSPRING_STACK marks a stack's processes, MAINSPRING_EXTRA chooses what `make setup` installs.
_READ_ELSEWHERE = {"stack", "extra", "api_key"}
_ADDRESSES = r"^(https?://\S+|[^\s@;]+@[^\s@;]+(;[^\s@;]+@[^\s@;]+)*)?$"
INFRA = Path(__file__).resolve().parent.parent / "infra"


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RaySection(Section):
    """Where Ray runs. `address` None starts Ray on this machine; `auto` or `host:port` joins."""

    address: str | None = None
    num_cpus: float | None = Field(None, gt=0, description="logical CPUs of a local Ray")
    object_store_mb: int = Field(200, ge=80, description="shared memory of a local Ray, MB")
    dashboard: bool = False


class QuestionsSection(Section):
    """Whose questions are kept for the router to learn from, once somebody says how good their
    answers were. What is personal is masked first."""

    tenants: tuple[str, ...] = Field((), description="who consents; none unless named")
    share: float = Field(1.0, ge=0, le=1, description="of their requests")
    days: float = Field(90.0, gt=0, le=3_650)
    most: int = Field(20_000, ge=1, le=1_000_000, description="of a tenant; the oldest go first")


class GatewaySection(Section):
    """The one address. Beyond loopback it refuses to start without keys."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    api_key_sha256: tuple[str, ...] = Field(
        (),
        repr=False,
        description="hex SHA-256 of the first administrators' keys, for whom nothing is closed; "
        "`mainspring keys` makes all others",
    )
    haproxy: bool = True
    haproxy_stats_port: int = Field(8404, ge=1, le=65535)
    haproxy_metrics_port: int = Field(9101, ge=1, le=65535)
    replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(256, ge=1)
    max_body_bytes: int = Field(4_000_000, ge=1_000)
    body_timeout_s: float = Field(30.0, gt=0, description="until a request's body has come")
    request_timeout_s: float = Field(120.0, gt=0, description="total deadline of one request")
    cache_bytes: int = Field(
        0,
        ge=0,
        description="memory of a replica for answers to repeated deterministic requests; 0: off",
    )
    cache_entries: int = Field(1_000, ge=1)
    cache_ttl_s: float = Field(300.0, gt=0)
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="of `auto` requests, sent to another model as well"
    )
    shadow_usd_per_day: float = Field(1.0, ge=0, le=1_000_000)
    questions: QuestionsSection = Field(default_factory=QuestionsSection)

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """Where this machine's programs find it."""
        shown = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host
        return f"http://{shown}:{self.port}"

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> Self:
        if not self.is_loopback and not self.api_key_sha256:
            raise ValueError(
                f"host {self.host!r} is reachable from other machines, so api_key_sha256 must "
                "hold at least one key's SHA-256; or set host to 127.0.0.1"
            )
        for digest in self.api_key_sha256:
            if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
                raise ValueError("api_key_sha256 entries are 64 lower-case hex digits")
        return self


class ReplicasSection(Section):
    """How many replicas a model may have. A plain number is both; with a minimum of 0 its engine
    ends when nobody asks for it, and requests wait for it to start again."""

    min: int = Field(1, ge=0)
    max: int = Field(1, ge=1)

    @property
    def elastic(self) -> bool:
        return self.max > self.min

    @property
    def first(self) -> int:
        """With how many it starts: one at least, so that a start shows that it works."""
        return max(1, self.min)

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, value: Any) -> Any:
        plain = isinstance(value, int) and not isinstance(value, bool)
        return {"min": value, "max": value} if plain else value

    @model_validator(mode="after")
    def _min_before_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class ModelSection(Section):
    """One model that vLLM serves. `source` is a Hugging Face id, a folder, an S3 address, or
    `checkpoint:NAME` for a reference checkpoint that ships with Mainspring."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    source: str
    tier: Literal["planner", "routine", "outside"]
    usd_per_mtok_in: float = Field(ge=0, description="price of a million prompt tokens, USD")
    usd_per_mtok_out: float = Field(ge=0, description="price of a million generated tokens, USD")
    max_model_len: int = Field(2048, ge=128)
    max_num_seqs: int = Field(32, ge=1, description="sequences in one engine batch")
    max_ongoing_requests: int = Field(64, ge=1, description="per replica; more wait or get 429")
    max_queued_requests: int = Field(128, ge=0)
    replicas: ReplicasSection = ReplicasSection()
    usd_per_hour: float = Field(0.0, ge=0, description="what the machine of a replica costs, USD")
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}$")], ...] = Field(
        (), description="what it is to be asked in, ISO 639-1, as [en]; empty: in any"
    )
    device: Literal["cpu", "gpu"] = "cpu"
    cpu_cores: str | None = Field(None, description='cores of this engine, as "0" or "0-3"')
    kv_cache_gib: int = Field(1, ge=1, description="CPU only: GiB of KV cache")
    tensor_parallel: int = Field(1, ge=1)
    accelerator_type: str | None = None
    tool_call_parser: str = "hermes"
    reasoning_parser: str | None = None
    engine: dict[str, Any] = Field(default_factory=dict, description="further vLLM engine args")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class OutsideSection(Section):
    """A model at somebody else's house, at an OpenAI-compatible address. It is asked only for
    tenants that `consent` names, by its `id`, or for `auto` while none of our own engines is alive
    or has room; what is personal is taken out first."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    url: str = Field(pattern=r"^https?://\S*[^/\s]$", description="what stands before /v1")
    model: str = Field(min_length=1, description="what it is called there")
    api_key_env: str = Field("", description="the environment variable that holds the key")
    consent: tuple[str, ...] = Field((), description="tenants whose requests may go there; * all")
    usd_per_day: float = Field(gt=0, description="the most that all of them may spend there")
    usd_per_mtok_in: float = Field(ge=0)
    usd_per_mtok_out: float = Field(ge=0)
    max_model_len: int = Field(8192, ge=128)
    at_once: int = Field(8, ge=1, description="requests there at the same time")
    names_by: str = Field(
        "", description="one of our models, which looks for names and addresses first"
    )


class EncoderSection(Section):
    """MiniLM embeddings and the intent head on top."""

    replicas: int = Field(1, ge=1)
    max_batch_size: int = Field(32, ge=1)
    batch_wait_s: float = Field(0.005, ge=0)
    threads: int = Field(1, ge=1)
    max_queued_requests: int = Field(512, ge=0)


class EmbedderSection(Section):
    """A model for memory's vectors beside the shipped MiniLM. `endpoint` asks the OpenAI-compatible
    `url` (as http://host:port/v1) for `model`; `sentence-transformers` loads `model`, a folder or a
    hub's name, and needs the extra of that name. A change of `model` is another embedder: give it
    a name of its own and prepare a space for it (`mainspring memory space`)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,23}$")
    kind: Literal["endpoint", "sentence-transformers"]
    model: str = Field(min_length=1)
    url: str = ""
    api_key: str = Field("", repr=False)
    dimension: int | None = Field(None, ge=2, description="numbers a vector; None takes what comes")
    sha256: str = Field("", description="of the weights of a folder; others are refused")
    timeout_s: float = Field(
        30.0, gt=0, description="deadline of one request, its repeats included"
    )
    retries: int = Field(2, ge=0, le=10)
    batch: int = Field(32, ge=1, le=2_048, description="texts in one request")
    max_chars: int = Field(8_000, ge=16, description="longer texts are cut there")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.name == "minilm":
            raise ValueError("the name minilm is that of the shipped embedder")
        if (self.kind == "endpoint") != self.url.startswith(("http://", "https://")):
            raise ValueError("url is http(s)://... for an endpoint, and empty otherwise")
        return self


class MemorySection(Section):
    """What is remembered: the log, a SQLAlchemy URL (a relative SQLite path lies below `data_dir`),
    and the index on it, Milvus. A `uri` without a scheme is a Milvus Lite file below `data_dir`."""

    log: str = Field("sqlite:///memory-log.db", repr=False)
    uri: str = "memory.db"
    token: str = Field("", repr=False)
    embedder: str = Field(
        "minilm", description="whose vectors a new memory starts with: minilm, or one of embedders"
    )
    embedders: tuple[EmbedderSection, ...] = ()
    flush_rows: int = Field(200, ge=1, description="rows that wait for the index at most")
    flush_seconds: float = Field(2.0, gt=0, description="how long they wait at most")
    sweep_seconds: float = Field(60.0, gt=0, description="between two sweeps of what has expired")
    purge_seconds: float = Field(
        3600.0, gt=0, description="between two rewritings of the files without what was swept"
    )
    erase_wait_s: float = Field(
        60.0, gt=0, description="how long a forgetting waits until the bytes are gone"
    )
    conversation_tokens: int = Field(
        1_000, ge=1, description="an agent's conversation over it is summed up in the background"
    )

    @model_validator(mode="after")
    def _embedders_are_distinct(self) -> Self:
        names = ["minilm", *(one.name for one in self.embedders)]
        if len(set(names)) != len(names):
            raise ValueError(f"embedders: names must be distinct, got {names[1:]}")
        if self.embedder not in names:
            raise ValueError(f"embedder {self.embedder!r} is none of {names}")
        return self


class JournalSection(Section):
    """SQLAlchemy URL of the journal. `sqlite:///journal.db` lies below `data_dir`."""

    url: str = "sqlite:///journal.db"


class AccountsSection(Section):
    """Keys, budgets and the ledger. `sqlite:///accounts.db` lies below `data_dir`; gateways on
    several machines share one PostgreSQL."""

    url: str = "sqlite:///accounts.db"
    lease_margin_s: float = Field(
        10.0, gt=0, description="what a killed gateway reserved is free so long after its deadline"
    )


class BatchesSection(Section):
    """Files and batches. `objects` is where files lie: a folder below `data_dir`, or
    `s3://BUCKET/PREFIX`."""

    url: str = Field("sqlite:///batches.db", repr=False)
    objects: str = "objects"
    max_file_bytes: int = Field(200_000_000, ge=1_000, description="of an upload")
    concurrency: int = Field(64, ge=1, description="lines on their way to the engines at most")
    online_ttft_s: float = Field(
        0.5, gt=0, description="first tokens that take longer, of who waits online, slow batches"
    )
    keep_days: float = Field(30.0, gt=0, description="how long the files of answers are kept")


class ApprovalsSection(Section):
    """What happens when policy wants a person asked: the step waits for an answer, or it is not
    done and the run goes on without it (`hand_over`). `chain` names who is asked, one after the
    other; the last one keeps being reminded until the question expires."""

    asks: Literal["wait", "hand_over"] = "wait"
    chain: tuple[str, ...] = Field(("support desk", "operator"), min_length=1)
    remind_s: float = Field(4 * 3600.0, gt=0, description="until the next of the chain is asked")
    expires_s: float = Field(3 * 86_400.0, gt=0, description="an answer after it is worth nothing")


class ToolServerSection(Section):
    """An MCP server whose tools agents may use: a `command` that speaks it over stdin and stdout,
    or a `url`. `tools` are those that may be used and what each does to the world: a `write` that
    was broken off is never repeated, and a person is asked. `workflows` may use them. `credentials`
    give the server's environment (of a URL: the request's headers) by the names of our own
    environment's variables; the connector's process alone reads them."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    command: tuple[str, ...] = Field((), repr=False)
    url: str = Field("", repr=False)
    tools: dict[str, Literal["read", "write"]] = Field(min_length=1)
    workflows: tuple[str, ...] = ("tool",)
    credentials: dict[str, str] = Field(default_factory=dict)
    timeout_s: float = Field(10.0, gt=0, le=600, description="of one call, its start included")
    max_chars: int = Field(16_000, ge=100, description="of a result; the rest is cut")
    max_bytes: int = Field(1_000_000, ge=1_000, description="more than that is no answer")
    personal: Literal["hide", "keep"] = Field(
        "hide", description="what becomes of personal data in a result"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.command) == self.url.startswith(("http://", "https://")):
            raise ValueError("a server has a command or a url http(s)://..., and not both")
        if wrong := [t for t in self.tools if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", t)]:
            raise ValueError(f"tools: 1 to 64 letters, digits and any of _ . - are a name: {wrong}")
        return self


class PiiSection(Section):
    """What finds personal data in texts: our own `patterns`, or `presidio` behind them, which the
    extra of that name installs; it looks for what is usual in each of the `languages`."""

    engine: Literal["patterns", "presidio"] = "patterns"
    languages: tuple[str, ...] = Field(
        ("en", "de"), min_length=1, description="of presidio; each costs milliseconds a text"
    )


class AgentsSection(Section):
    """The agent host, the orchestrator and their limits. `autonomy` is how far a workflow is
    trusted: 0 proposes and a person decides on each effect, 1 asks before it spends money, 2 goes
    by the policy, 3 has the policy's larger caps. `*` stands for every workflow that is not named;
    `mainspring policy autonomy` changes a level while the stack runs."""

    policy: str = Field("support.cedar", description="file below infra/policy, or a path")
    autonomy: dict[str, Annotated[int, Field(ge=0, le=3)]] = Field(default_factory=dict)
    approvals: ApprovalsSection = ApprovalsSection()
    intent_s: float = Field(30.0, gt=0, description="how long a connector accepts a signed intent")
    max_rate_wait_s: float = Field(
        86_400.0, gt=0, description="a step whose rate frees later than that is denied"
    )
    hosts: int = Field(1, ge=1)
    orchestrators: int = Field(1, ge=1, description="the runs are divided among them, by agent")
    concurrency: int = Field(8, ge=1, description="runs worked on at once by one host")
    interactive_slots: int = Field(
        2, ge=0, description="of all slots, how many background runs never take"
    )
    idle_s: float = Field(300.0, gt=0, description="an agent idle so long is put to sleep")
    max_open_runs: int = Field(10_000, ge=1, description="more are refused with 429")
    turn_timeout_s: float = Field(60.0, gt=0)
    patience_s: float = Field(
        600.0, ge=0, description="how long a run waits for a part that is away, once it is stuck"
    )
    connector_timeout_s: float = Field(10.0, gt=0)
    model_timeout_s: float = Field(30.0, gt=0)
    servers: tuple[ToolServerSection, ...] = ()
    pii: PiiSection = PiiSection()
    pseudonyms: str = Field(
        "sqlite:///pseudonyms.db",
        description="values that exports hide, sealed; a SQLite file lies below `data_dir`",
    )
    packs: tuple[str, ...] = Field(
        ("content", "shop"),
        description="workflows beside the support desk's: names of shipped ones, paths of folders",
    )

    @property
    def packs_by_name(self) -> dict[str, str]:
        """What the packs are called (a folder's pack has the folder's name), and where they are."""
        return {Path(pack).name: pack for pack in self.packs}

    @field_validator("packs")
    @classmethod
    def _packs_are_found_from_everywhere(cls, packs: tuple[str, ...]) -> tuple[str, ...]:
        # Actors do not stand where the settings were read.
        return tuple(str(Path(p).expanduser().resolve()) if "/" in p else p for p in packs)

    @model_validator(mode="after")
    def _servers_are_distinct(self) -> Self:
        names = [server.name for server in self.servers]
        if len(set(names)) != len(names):
            raise ValueError(f"servers: names must be distinct, got {names}")
        return self


class SupportSection(Section):
    """The support workflow's thresholds. `desk` is a folder with a help-desk's data."""

    desk: str = Field("support", description="folder below infra, or a path")
    intents: str = Field("support", description="trained intent head: name or folder")
    min_confidence: float = Field(0.70, ge=0, le=1, description="calibrated; below it: escalate")
    max_out_of_scope: float = Field(0.50, ge=0, le=1, description="above it: escalate")
    evidence: int = Field(4, ge=1, le=12, description="records recalled for a ticket")
    server_tools: int = Field(
        4, ge=0, le=16, description="tools of MCP servers offered to a plan, best for the ticket"
    )
    unspoken: Literal["english", "person"] = Field(
        "english", description="who answers what is in a language that no model speaks"
    )


class GrafanaSection(Section):
    """The Grafana that `mainspring dashboards apply` brings the boards to. `prometheus` is where
    that Grafana finds Prometheus. `pages_to` and `tickets_to` are e-mail addresses, with `;`
    between them, or a webhook's URL; without one there is no contact point."""

    url: str = Field("http://127.0.0.1:3000", pattern=r"^https?://[^\s?#@]+$")
    token: str = Field("", repr=False, description="of a service account")
    prometheus: str = Field("http://127.0.0.1:9090", pattern=r"^https?://\S+$")
    folder: str = Field("Mainspring", min_length=1)
    pages_to: str = Field("", pattern=_ADDRESSES, repr=False)
    tickets_to: str = Field("", pattern=_ADDRESSES, repr=False)


class NodeSection(Section):
    """A kind of GPU node, of which Ray's autoscaler starts up to `max` and ends the idle ones.
    `instance` is an AWS instance type; `selector` are further labels that a node of Kubernetes has.
    `spot` is for AWS; on Kubernetes `selector` says it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    instance: str
    min: int = Field(0, ge=0)
    max: int = Field(ge=1)
    spot: bool = False
    selector: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _min_is_not_more(self) -> Self:
        if self.min > self.max:
            raise ValueError(
                f"min {self.min} of node {self.name!r} is more than its max {self.max}"
            )
        return self


class ClusterSection(Section):
    """What `mainspring cluster render` makes manifests of. `secret` names a Kubernetes secret, and
    `SECRET-ray` another one, which somebody else writes. `weights` are kept on a volume (`pvc`), or
    the models name S3 addresses (`s3`)."""

    name: str = Field("mainspring", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    namespace: str = "mainspring"
    image: str = "mainspring:cpu"
    gpu_image: str = "mainspring:gpu"
    head: str = Field("m7i.4xlarge", description="the head's instance type")
    nodes: tuple[NodeSection, ...] = ()
    idle_s: float = Field(300.0, gt=0, description="a GPU node idle so long is given back")
    redis: str = Field("redis:6379", pattern=r"^[^\s/]+:\d+$")
    secret: str = "mainspring"
    weights: Literal["pvc", "s3"] = "pvc"
    weights_gib: int = Field(500, ge=1)
    state_gib: int = Field(50, ge=1)
    storage_class: str = Field("", description='one whose volumes many pods write; "": default')
    operator_namespace: str = "kuberay-system"
    monitoring_namespace: str = "monitoring"
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    bucket: str = Field("mainspring", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    otlp: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="where traces go: a collector's OTLP over HTTP",
    )
    role_arn: str = Field("", pattern=r"^(arn:aws[a-z-]*:iam::\d{12}:role/\S+)?$")

    @model_validator(mode="after")
    def _nodes_are_distinct(self) -> Self:
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names) or "head" in names:
            raise ValueError(f"nodes: names must be distinct, and none is head, got {names}")
        return self


class AutoscaleSection(Section):
    """When models whose `replicas` have room between min and max get more of them, and when fewer;
    `quotas` bounds GPUs by `accelerator_type` (`gpu` for those without one)."""

    ttft_s: float = Field(1.0, gt=0, description="promised time to the first token")
    kv: float = Field(0.85, gt=0, le=1, description="share of KV cache that may be in use")
    calm_s: float = Field(120.0, ge=0, description="a lower load must last before replicas go")
    idle_s: float = Field(900.0, ge=0, description="without a request before the last one goes")
    usd_per_hour: float | None = Field(
        None, ge=0, description="all models' replicas together never cost more"
    )
    quotas: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)


class Settings(BaseSettings):
    """Everything that can be set, by section; see the sections' docstrings and fields."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    profile: str = "local"
    data_dir: Path = Path(".mainspring")
    tenant: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    ray: RaySection = RaySection()
    gateway: GatewaySection = GatewaySection()
    models: tuple[ModelSection, ...] = Field(min_length=1)
    outside: tuple[OutsideSection, ...] = ()
    encoder: EncoderSection = EncoderSection()
    memory: MemorySection = MemorySection()
    journal: JournalSection = JournalSection()
    accounts: AccountsSection = AccountsSection()
    batches: BatchesSection = BatchesSection()
    agents: AgentsSection = AgentsSection()
    autoscale: AutoscaleSection = AutoscaleSection()
    support: SupportSection = SupportSection()
    grafana: GrafanaSection = GrafanaSection()
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _models_are_distinct(self) -> Self:
        ids = [m.id for m in self.models] + [m.id for m in self.outside]
        if len(set(ids)) != len(ids):
            raise ValueError(f"models: ids must be distinct, got {ids}")
        if reserved := [i for i in ids if i.startswith("auto")]:
            raise ValueError(f"models: {reserved} clash with the routing names auto...")
        if away := [m.id for m in self.models if m.tier == "outside"]:
            raise ValueError(f"models: {away} are at another house: list them under outside")
        for place in self.outside:
            if place.names_by and place.names_by not in [m.id for m in self.models]:
                raise ValueError(
                    f"outside.{place.id}.names_by: {place.names_by!r}; expected one of our models"
                )
        if missing := {"planner", "routine"} - {m.tier for m in self.models}:
            raise ValueError(f"models: no model has tier {sorted(missing)}")
        return self

    @model_validator(mode="after")
    def _minima_are_within_the_ceiling(self) -> Self:
        ceiling = self.autoscale.usd_per_hour
        least = sum(m.replicas.first * m.usd_per_hour for m in self.models)
        if ceiling is not None and least > ceiling:
            raise ValueError(
                f"autoscale: usd_per_hour {ceiling:g} is less than what the first replicas of the "
                f"models cost, {least:g}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment comes before the profile, which `load` passes as keyword arguments."""
        return env_settings, init_settings

    def path(self, name: str) -> Path:
        """`name` below the data folder, absolute."""
        return (self.data_dir / name).resolve()


def profile_path(name: str) -> Path:
    """The file of a profile: a name below infra/profiles, or a path."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return path
    return INFRA / "profiles" / f"{name}.yaml"


def infra_path(kind: str, name: str) -> Path:
    """`name` as a path when it is one, else what ships as infra/KIND/NAME."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else INFRA / kind / name


def load(profile: str | None = None, **overrides: Any) -> Settings:
    """Read the profile and the environment.

    Raises ConfigError when a file is missing or a value is wrong; the error names the field.
    """
    name = profile or os.environ.get(f"{ENV_PREFIX}PROFILE") or "local"
    values = profile_values(name)
    try:
        settings = Settings(**{**values, **overrides, "profile": name})
    except ValidationError as error:
        raise _first_problem(error) from None
    except SettingsError as error:
        raise _unreadable_variable(error) from None
    # MAINSPRING_PROFILE names the profile only where the caller named none.
    return settings.model_copy(update={"profile": name})


def profile_values(name: str) -> dict[str, Any]:
    """What the profile's file says. ConfigError when there is none, or no profile in it."""
    path = profile_path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        known = sorted(p.stem for p in (INFRA / "profiles").glob("*.yaml"))
        raise ConfigError("profile", name, f"one of {known}, or a YAML file's path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("profile", str(path), f"readable YAML ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError("profile", str(path), "a YAML mapping of sections")
    return values


def _first_problem(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    expected = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        expected = f"one of the known keys {_known_keys(first['loc'][:-1])}"
    value = first.get("input")
    return ConfigError(where, value if not isinstance(value, dict) else "...", expected)


def _known_keys(where: tuple[str | int, ...]) -> list[str]:
    if not where:
        return sorted(Settings.model_fields)
    section = (
        ModelSection if where[0] == "models" else Settings.model_fields[str(where[0])].annotation
    )
    return sorted(section.model_fields) if section is not None else []


def _unreadable_variable(error: SettingsError) -> ConfigError:
    # pydantic-settings names the field in its sentence only.
    name = re.search(r'field "(\w+)"', str(error))
    field = name.group(1) if name else "settings"
    variable = f"{ENV_PREFIX}{field.upper()}"
    return ConfigError(field, os.environ.get(variable, "..."), f"JSON in {variable}")


def unknown_variables(environ: dict[str, str]) -> list[str]:
    """MAINSPRING_ variables that set nothing, so that a typing mistake is seen."""
    known = set(Settings.model_fields) | _READ_ELSEWHERE
    return sorted(
        name
        for name in environ
        if name.startswith(ENV_PREFIX)
        and name.removeprefix(ENV_PREFIX).split("__")[0].lower() not in known
    )
