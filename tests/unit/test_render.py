"""A profile becomes manifests that their schemas accept, without a secret in them."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.errors import ConfigError, DataError, DeadlineExceeded
from cluster.render.files import Target, differences, problems, read, rendered
from cluster.settings import INFRA
from serve.cli import app
from serve.kuberay import Ready

TARGETS: tuple[Target, ...] = ("kuberay", "aws")
Profile = dict[str, Any]


@pytest.fixture
def profile() -> Profile:
    text = (INFRA / "profiles" / "cluster.yaml").read_text("utf-8")
    values: Profile = yaml.safe_load(text)
    return values


def _kept(folder: Path, profile: Profile) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(profile), "utf-8")
    return str(path)


def _service(files: dict[str, str]) -> Any:
    return yaml.safe_load(files["rayservice.yaml"])["spec"]["rayClusterConfig"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_ships_is_what_the_profile_renders_and_keeps_to_its_schemas(target: Target) -> None:
    files = rendered("cluster", target)
    assert list(differences(files, INFRA / target)) == []
    assert list(problems(files)) == []


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_of_the_environment_is_written(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_JOURNAL__URL", "postgresql+psycopg://u:hunter2@db/x")
    monkeypatch.setenv("MAINSPRING_MEMORY__TOKEN", "hunter2")
    text = "".join(rendered("cluster", target).values())
    assert "hunter2" not in text and "0" * 64 not in text


def test_gpu_groups_start_from_none_and_have_a_node_for_themselves() -> None:
    groups = _service(rendered("cluster", "kuberay"))["workerGroupSpecs"]
    sizes = {g["groupName"]: (g["replicas"], g["minReplicas"], g["maxReplicas"]) for g in groups}
    assert sizes == {"l40s": (0, 0, 2), "h100": (0, 0, 4)}
    pod = groups[0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "g6e.12xlarge"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_the_head_is_ready_when_the_stack_is_and_its_state_outlives_it() -> None:
    config = _service(rendered("cluster", "kuberay"))
    assert config["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    ray_part, driver = config["headGroupSpec"]["template"]["spec"]["containers"]
    assert "/readyz" in driver["readinessProbe"]["exec"]["command"][-1]
    compile(driver["readinessProbe"]["exec"]["command"][-1], "probe", "exec")
    assert ray_part["volumeMounts"] == driver["volumeMounts"]
    named = {e["name"] for e in driver["env"] if "valueFrom" in e}
    assert {"MAINSPRING_JOURNAL__URL", "RAY_AUTH_TOKEN", "MAINSPRING_API_KEY"} <= named


def test_every_volume_that_is_mounted_is_claimed_or_made() -> None:
    files = rendered("cluster", "kuberay")
    claims = {c["metadata"]["name"] for c in yaml.safe_load_all(files["storage.yaml"])}
    config = _service(files)
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {v["name"]: v for v in pod["volumes"]}
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted == set(volumes)
        asked = [v.get("persistentVolumeClaim", {}).get("claimName") for v in volumes.values()]
        assert {name for name in asked if name} == claims


def test_the_network_lets_pods_reach_the_stores_of_the_profile() -> None:
    policies = list(yaml.safe_load_all(rendered("cluster", "kuberay")["network.yaml"]))
    ports = {p["port"] for rule in policies[1]["spec"]["egress"] for p in rule.get("ports", ())}
    assert ports == {53, 443, 5432, 6379, 19530}


def test_weights_in_s3_need_no_volume(tmp_path: Path, profile: Profile) -> None:
    role = "arn:aws:iam::123456789012:role/weights"
    profile["cluster"] |= {"weights": "s3", "role_arn": role}
    files = rendered(_kept(tmp_path, profile), "kuberay")
    assert "mainspring-weights" not in files["storage.yaml"]
    assert role in files["config.yaml"]
    assert list(problems(files)) == []


def test_traces_go_where_the_profile_says(tmp_path: Path, profile: Profile) -> None:
    profile["cluster"]["otlp"] = "http://collector.monitoring:4318"
    files = rendered(_kept(tmp_path, profile), "kuberay")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in files["rayservice.yaml"]
    assert "port: 4318" in files["network.yaml"]


def test_rights_on_aws_change_nothing_but_what_is_the_clusters_own() -> None:
    for name in ("iam-head.json", "iam-worker.json"):
        for rule in json.loads(rendered("cluster", "aws")[name])["Statement"]:
            assert rule["Effect"] == "Allow" and "*" not in rule["Action"]
            looks = all(action.startswith("ec2:Describe") for action in rule["Action"])
            assert looks or "*" not in rule["Resource"], rule
    worker = json.loads(rendered("cluster", "aws")["iam-worker.json"])["Statement"]
    assert {a for rule in worker for a in rule["Action"]} == {"s3:ListBucket", "s3:GetObject"}


def test_spot_is_for_the_nodes_that_say_so() -> None:
    types = yaml.safe_load(rendered("cluster", "aws")["cluster.yaml"])["available_node_types"]
    spot = {n for n, t in types.items() if "InstanceMarketOptions" in t["node_config"]}
    assert spot == {"h100"}
    assert types["l40s"]["resources"]["GPU"] == 4


def _with(profile: Profile, path: str, value: object) -> Profile:
    changed: Any = copy.deepcopy(profile)
    *way, last = path.split(".")
    inner = changed
    for part in way:
        inner = inner[int(part)] if part.isdigit() else inner[part]
    inner[last] = value
    return changed  # type: ignore[no-any-return]


@pytest.mark.parametrize(("path", "value", "said"), [
    ("cluster.nodes.0.instance", "g99.large", r"cluster\.nodes\.l40s\.instance is 'g99\.large'"),
    ("cluster.nodes.0.instance", "m7i.4xlarge", "one with GPUs"),
    ("cluster.head", "tiny", r"cluster\.head is 'tiny'"),
    ("cluster.nodes", [], "at least one kind of GPU node"),
    ("cluster.nodes", [{"name": "a", "instance": "g6e.xlarge", "max": 9}], "for model planner"),
    ("cluster.nodes.1.max", 0, "greater than or equal to 1"),
    ("cluster.nodes.1.min", 9, "more than its max"),
    ("cluster.nodes.1.name", "l40s", "distinct"),
    ("models.1.replicas", 40, "which the models' replicas need"),
    ("models.0.accelerator_type", "B200", "B200 for model planner"),
    ("gateway.host", "127.0.0.1", r"gateway\.host"),
    ("ray.address", "10.0.0.1:6379", r"ray\.address"),
    ("cluster.redis", "redis", r"cluster\.redis"),
])  # fmt: skip
def test_a_profile_that_no_cluster_could_run_is_refused_by_field(
    tmp_path: Path, profile: Profile, path: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        rendered(_kept(tmp_path, _with(profile, path, value)), "kuberay")


@pytest.mark.parametrize("name", ["nowhere", "local", "gpu"])
def test_no_profile_or_one_for_one_machine_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"profile|gateway\.host"):
        rendered(name, "aws")


@pytest.mark.parametrize(("file", "before", "after", "said"), [
    ("rayservice.yaml", "workerGroupSpecs:", "workerGroups:", "rayClusterConfig.*workerGroups"),
    ("rayservice.yaml", "minReplicas: 0", "minReplicas: none", "minReplicas"),
    ("rayservice.yaml", "containerPort: 6379", "containerPort: gcs", "containerPort"),
    ("rayservice.yaml", "terminationGracePeriodSeconds", "gracePeriod", "gracePeriod"),
    ("disruption.yaml", "maxUnavailable", "maxUnavailabel", "maxUnavailabel"),
    ("network.yaml", "policyTypes", "policies", "policies"),
    ("storage.yaml", "accessModes:", "access:", "access"),
    ("config.yaml", "kind: ConfigMap", "kind: Config", "Config is a kind that is not checked"),
])  # fmt: skip
def test_a_slip_in_a_manifest_is_named_by_file_and_field(
    file: str, before: str, after: str, said: str
) -> None:
    files = rendered("cluster", "kuberay")
    assert before in files[file]
    found = "\n".join(problems({file: files[file].replace(before, after, 1)}))
    assert re.search(f"{file}.*{said}", found), found


@pytest.mark.parametrize(("before", "after", "said"), [
    ("max_workers: 2", "max_workers: two", "max_workers"),
    ("node_config:", "nodes_config:", "nodes_config"),
    ("cluster_name:", "name:", "name"),
])  # fmt: skip
def test_a_slip_in_a_cluster_file_is_named_by_field(before: str, after: str, said: str) -> None:
    text = rendered("cluster", "aws")["cluster.yaml"]
    assert before in text
    found = list(problems({"cluster.yaml": text.replace(before, after)}))
    assert any(said in line for line in found)


def test_a_file_that_is_no_yaml_is_named() -> None:
    with pytest.raises(DataError, match=r"network\.yaml"):
        list(problems({"network.yaml": "a: [1"}))


def test_the_commands_write_check_and_compare(tmp_path: Path) -> None:
    run, at = CliRunner(), ["--target", "kuberay"]
    assert run.invoke(app, ["cluster", "render", *at, "--out", str(tmp_path)]).exit_code == 0
    assert set(read(tmp_path)) == set(rendered("cluster", "kuberay"))
    assert run.invoke(app, ["cluster", "diff", *at, "--dir", str(tmp_path)]).exit_code == 0
    file = tmp_path / "network.yaml"
    file.write_text(file.read_text("utf-8").replace("port: 19530", "port: x"), "utf-8")
    told = run.invoke(app, ["cluster", "diff", *at, "--dir", str(tmp_path)])
    assert told.exit_code == 1 and "+" in told.output and "19530" in told.output
    checked = run.invoke(app, ["cluster", "validate", *at, "--dir", str(tmp_path)])
    assert checked.exit_code == 0
    file.write_text(file.read_text("utf-8").replace("podSelector", "pods"), "utf-8")
    checked = run.invoke(app, ["cluster", "validate", *at, "--dir", str(tmp_path)])
    assert checked.exit_code == 1 and "network.yaml" in checked.output


def test_kuberay_waits_for_the_stack() -> None:
    told = iter(["absent", "RUNNING"])
    assert Ready(poll_s=0.0, status=lambda name: next(told))() == "ready"
    with pytest.raises(DeadlineExceeded, match="mainspring"):
        Ready(waits_s=-1.0, status=lambda name: "DEPLOYING")
