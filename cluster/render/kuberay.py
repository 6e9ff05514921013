"""The profile as Kubernetes manifests: a RayService, its storage, account, network and disruption
rules.

The stack's driver (`mainspring up`) is a container of the head's pod: it shares Ray's session and
shared memory with it. GPU nodes come from zero, by Ray's autoscaler; the cluster's own state lies
in Redis, so that a head that is lost comes back with its workers still there. Secrets are named,
never written. Not covered: a RayCluster is not replaced beside the old one (`upgradeStrategy:
None`), as two stacks must not share one data folder; Redis, Milvus and PostgreSQL are somebody
else's.
"""

from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.render.nodes import head_machine, node_machine
from cluster.render.pods import (
    CONFIG_DIR,
    Manifest,
    container,
    gpu_resources,
    labels,
    secret,
    template,
)
from cluster.settings import NodeSection, Settings

_SIDECAR_CPUS: Final = 1
_SIDECAR_GIB: Final = 4
_STARTS_WITHIN_S: Final = 3600
_PORT: Final = "http"
_READY: Final = (
    "import os, urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:{port}/readyz', "
    "headers={{'authorization': 'Bearer ' + os.environ['MAINSPRING_API_KEY']}}), timeout=25)"
)


def manifests(settings: Settings, profile: str) -> dict[str, list[Manifest]]:
    """File names and what is in them; `profile` is the text of the profile's file."""
    return {
        "config.yaml": [_config(settings, profile), _account(settings)],
        "storage.yaml": _claims(settings),
        "rayservice.yaml": [_service(settings)],
        "disruption.yaml": [_budget(settings, "head"), _budget(settings, "worker")],
        "network.yaml": [_within(settings), _outward(settings)],
    }


def _object(settings: Settings, kind: str, api: str, name: str, **fields: Any) -> Manifest:
    metadata = {
        "name": name, "namespace": settings.cluster.namespace, "labels": labels(settings),
    }  # fmt: skip
    metadata |= fields.pop("metadata", {})
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def _config(settings: Settings, profile: str) -> Manifest:
    name = f"{settings.cluster.name}-profile"
    return _object(settings, "ConfigMap", "v1", name, data={"profile.yaml": profile})


def _account(settings: Settings) -> Manifest:
    """Who the pods are, towards S3 (an IAM role) and nobody else."""
    role = settings.cluster.role_arn
    annotations = {"eks.amazonaws.com/role-arn": role} if role else {}
    return _object(
        settings, "ServiceAccount", "v1", settings.cluster.name,
        metadata={"annotations": annotations}, automountServiceAccountToken=bool(role),
    )  # fmt: skip


def _claims(settings: Settings) -> list[Manifest]:
    wanted = {"state": settings.cluster.state_gib}
    if settings.cluster.weights == "pvc":
        wanted["weights"] = settings.cluster.weights_gib
    return [
        _object(
            settings, "PersistentVolumeClaim", "v1", f"{settings.cluster.name}-{name}",
            spec={
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": f"{gib}Gi"}},
                **_class(settings),
            },
        )
        for name, gib in wanted.items()
    ]  # fmt: skip


def _class(settings: Settings) -> dict[str, str]:
    name = settings.cluster.storage_class
    return {"storageClassName": name} if name else {}


def _service(settings: Settings) -> Manifest:
    cluster = settings.cluster
    return _object(
        settings, "RayService", "ray.io/v1", cluster.name,
        spec={
            "upgradeStrategy": {"type": "None"},
            "deploymentUnhealthySecondThreshold": _STARTS_WITHIN_S,
            "serviceUnhealthySecondThreshold": _STARTS_WITHIN_S,
            # Ready when the stack is: see serve/kuberay.py.
            "serveConfigV2": "applications:\n- name: ready\n  import_path: serve.kuberay:ready\n"
            "  route_prefix: null\n",
            "rayClusterConfig": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token", "secretName": f"{cluster.secret}-ray"},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": int(cluster.idle_s)},
                "gcsFaultToleranceOptions": {
                    "redisAddress": cluster.redis,
                    "redisPassword": {"valueFrom": secret(cluster.secret, "redis-password")},
                },
                "headGroupSpec": _head(settings),
                "workerGroupSpecs": [_group(settings, node) for node in cluster.nodes],
            },
        },
    )  # fmt: skip


def _head(settings: Settings) -> Manifest:
    machine = head_machine(settings)
    port = settings.gateway.port
    ray_part = container(
        settings, "ray-head", settings.cluster.image,
        machine.pod_cpus - _SIDECAR_CPUS, machine.pod_memory_gib - _SIDECAR_GIB,
    )  # fmt: skip
    ray_part["ports"] = [
        {"name": "gcs", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265},
        {"name": "metrics", "containerPort": 8080}, {"name": _PORT, "containerPort": port},
    ]  # fmt: skip
    containers = [ray_part, _driver(settings)]
    return {
        "rayStartParams": {"num-cpus": str(machine.pod_cpus), "dashboard-host": "0.0.0.0"},
        "template": template(settings, "head", containers),
    }


def _driver(settings: Settings) -> Manifest:
    """`mainspring up`, with the probes: ready when every model has generated a token."""
    ask = {"exec": {"command": ["python", "-c", _READY.format(port=settings.gateway.port)]}}
    made = container(settings, "mainspring", settings.cluster.image, _SIDECAR_CPUS, _SIDECAR_GIB)
    return made | {
        "command": ["mainspring", "up", "--profile", f"{CONFIG_DIR}/profile.yaml"],
        "startupProbe": {
            **ask, "periodSeconds": 10, "timeoutSeconds": 30,
            "failureThreshold": _STARTS_WITHIN_S // 10,
        },
        "readinessProbe": {**ask, "periodSeconds": 10, "timeoutSeconds": 30},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": settings.gateway.port},
            "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6,
        },
    }  # fmt: skip


def _group(settings: Settings, node: NodeSection) -> Manifest:
    """GPU nodes of one kind, each pod with a node for itself."""
    machine = node_machine(node)
    made = container(
        settings, "ray-worker", settings.cluster.gpu_image,
        machine.pod_cpus, machine.pod_memory_gib,
    )  # fmt: skip
    made["resources"] = gpu_resources(machine)
    pod = template(settings, "worker", [made])
    pod["spec"] |= {
        "nodeSelector": {"node.kubernetes.io/instance-type": node.instance, **node.selector},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "groupName": node.name, "replicas": node.min, "minReplicas": node.min,
        "maxReplicas": node.max, "rayStartParams": {}, "template": pod,
    }  # fmt: skip


def _budget(settings: Settings, component: str) -> Manifest:
    """Who drains a node waits for a person at the head, which is one, and takes workers in turn."""
    limit = {"minAvailable": 1} if component == "head" else {"maxUnavailable": 1}
    return _object(
        settings, "PodDisruptionBudget", "policy/v1", f"{settings.cluster.name}-{component}",
        spec={**limit, "selector": {"matchLabels": labels(settings, component)}},
    )  # fmt: skip


def _within(settings: Settings) -> Manifest:
    """Who may come in: the cluster's own pods, KubeRay, who scrapes, who is labelled a client."""
    cluster = settings.cluster
    client = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {f"{cluster.name}-client": "true"}},
    }
    operator = {"namespaceSelector": _namespace(cluster.operator_namespace)}
    scraper = {"namespaceSelector": _namespace(cluster.monitoring_namespace)}
    return _object(
        settings, "NetworkPolicy", "networking.k8s.io/v1", f"{cluster.name}-in",
        spec={
            "podSelector": {"matchLabels": labels(settings)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": labels(settings)}}]},
                {"from": [client], "ports": [_tcp(settings.gateway.port)]},
                {"from": [operator], "ports": [_tcp(8265), _tcp(settings.gateway.port)]},
                {"from": [scraper], "ports": [_tcp(8080), _tcp(settings.gateway.port)]},
            ],
        },
    )  # fmt: skip


def _outward(settings: Settings) -> Manifest:
    """Where pods may go: to each other, names, the stores of the profile, HTTPS for weights."""
    ports = sorted({443, *_stores(settings)})
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return _object(
        settings, "NetworkPolicy", "networking.k8s.io/v1", f"{settings.cluster.name}-out",
        spec={
            "podSelector": {"matchLabels": labels(settings)},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"podSelector": {"matchLabels": labels(settings)}}]},
                {"ports": dns},
                {"ports": [_tcp(port) for port in ports]},
            ],
        },
    )  # fmt: skip


def _stores(settings: Settings) -> set[int]:
    usual = {"postgresql+psycopg": 5432, "http": 80, "https": 443}
    urls = (
        settings.memory.uri, settings.memory.log, settings.journal.url, settings.accounts.url,
        settings.batches.url, settings.cluster.otlp, f"redis://{settings.cluster.redis}",
    )  # fmt: skip
    parts = [urlsplit(url) for url in urls]
    found = {part.port or usual.get(part.scheme) for part in parts if part.hostname}
    return {port for port in found if port}


def _namespace(name: str) -> Manifest:
    return {"matchLabels": {"kubernetes.io/metadata.name": name}}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
