"""The shipped profiles load, ask for what exists, and place engines as they say."""

import json

import pytest

from cluster.errors import ConfigError
from cluster.settings import ModelSection, Settings, load
from serve.catalog import EMBEDDING_MODEL, ROUTING_NAMES
from serve.engines import deployment_options, engine_arguments, environment, worker_bundles

KEYS = "MAINSPRING_GATEWAY__API_KEY_SHA256"
# What vLLM 0.29 registers; a wrong name is seen only after minutes of loading.
TOOL_PARSERS = {"hermes", "qwen3_coder", "qwen3_xml"}
REASONING_PARSERS = {None, "qwen3"}


@pytest.fixture
def profile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(KEYS, json.dumps(["a" * 64]))
    return load(request.param)


@pytest.mark.parametrize("profile", ["local", "gpu", "cluster"], indirect=True)
def test_profile_names_parsers_that_exist_and_distinct_models(profile: Settings) -> None:
    for model in profile.models:
        assert model.tool_call_parser in TOOL_PARSERS
        assert model.reasoning_parser in REASONING_PARSERS
        assert model.id not in {*ROUTING_NAMES, EMBEDDING_MODEL}


@pytest.mark.parametrize("profile", ["gpu"], indirect=True)
def test_models_of_the_gpu_profile_fit_one_gpu(profile: Settings) -> None:
    shares = [bundle["GPU"] for m in profile.models for bundle in worker_bundles(m)]
    assert len(shares) == 2
    assert sum(shares) <= 1.0
    assert profile.gateway.is_loopback


def test_cluster_profile_does_not_start_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    with pytest.raises(ConfigError, match="api_key_sha256"):
        load("cluster")


@pytest.mark.parametrize("profile", ["cluster"], indirect=True)
def test_cluster_profile_takes_its_keys_from_the_environment(profile: Settings) -> None:
    assert profile.gateway.api_key_sha256 == ("a" * 64,)
    assert profile.ray.address == "auto"
    assert profile.memory.uri.startswith("http://")
    assert profile.journal.url.startswith("postgresql+psycopg://")


@pytest.mark.parametrize("profile", ["cluster"], indirect=True)
def test_tensor_parallel_engine_gets_one_bundle_a_worker(profile: Settings) -> None:
    options = deployment_options(profile.models[0], drain_s=60.0)
    assert options["placement_group_bundles"] == [{"CPU": 0.5, "GPU": 1.0}, {"GPU": 1.0}]
    assert options["num_replicas"] == 2


@pytest.mark.parametrize("profile", ["local"], indirect=True)
def test_local_engines_keep_to_their_own_cores(profile: Settings) -> None:
    bound = [environment(m)["VLLM_CPU_OMP_THREADS_BIND"] for m in profile.models]
    assert bound == ["0", "1"]


def _model(**fields: object) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": "m", "source": "x", "tier": "routine", "usd_per_mtok_in": 0,
            "usd_per_mtok_out": 0, **fields,
        }
    )  # fmt: skip


def test_unbound_cpu_engine_does_not_share_vllms_automatic_core() -> None:
    assert environment(_model())["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_engine_arguments_of_the_profile_win() -> None:
    arguments = engine_arguments(_model(engine={"enforce_eager": False, "swap_space": 1}))
    assert arguments["enforce_eager"] is False
    assert arguments["swap_space"] == 1
    assert arguments["structured_outputs_config"]["disable_any_whitespace"] is True


def test_accelerator_type_becomes_a_placement_hint() -> None:
    model = _model(device="gpu", accelerator_type="H200")
    assert worker_bundles(model) == [{"GPU": 1.0, "accelerator_type:H200": 0.001}]
