"""The pods of a cluster: what is in them, which secrets they name, where their volumes lie."""

from typing import Any, Final

from cluster.render.nodes import Machine
from cluster.settings import Settings
from cluster.tracing import ENDPOINT

Manifest = dict[str, Any]

CONFIG_DIR: Final = "/etc/mainspring"
WEIGHTS_DIR: Final = "/weights"
_SECRETS: Final = {
    "MAINSPRING_GATEWAY__API_KEY_SHA256": "api-key-sha256",
    "MAINSPRING_API_KEY": "api-key",
    "MAINSPRING_MEMORY__TOKEN": "memory-token",
    "MAINSPRING_JOURNAL__URL": "journal-url",
    "MAINSPRING_ACCOUNTS__URL": "accounts-url",
}


def labels(settings: Settings, component: str = "") -> dict[str, str]:
    found = {"app.kubernetes.io/name": settings.cluster.name}
    return found | ({"app.kubernetes.io/component": component} if component else {})


def gpu_resources(machine: Machine) -> Manifest:
    wanted = {
        "cpu": str(machine.pod_cpus), "memory": f"{machine.pod_memory_gib}Gi",
        "nvidia.com/gpu": str(machine.gpus),
    }  # fmt: skip
    return {"requests": wanted, "limits": dict(wanted)}


def container(settings: Settings, name: str, image: str, cpus: int, memory_gib: int) -> Manifest:
    wanted = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    return {
        "name": name, "image": image, "env": _environment(settings),
        "resources": {"requests": wanted, "limits": {"memory": wanted["memory"]}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": volume["name"], "mountPath": path}
            for volume, path in zip(
                _volumes(settings), _paths(settings), strict=True
            )
        ],
    }  # fmt: skip


def _environment(settings: Settings) -> list[Manifest]:
    own = settings.cluster.secret
    plain = {
        "MAINSPRING_PROFILE": f"{CONFIG_DIR}/profile.yaml",
        # HAProxy wants variables in Ray's own processes, which start before the stack does.
        "MAINSPRING_GATEWAY__HAPROXY": "false",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "HF_HOME": WEIGHTS_DIR if settings.cluster.weights == "pvc" else "/tmp/hub",
        "RAY_AUTH_MODE": "token",
    }
    if settings.cluster.otlp:
        plain[ENDPOINT] = settings.cluster.otlp
    named = [{"name": name, "valueFrom": secret(own, key)} for name, key in _SECRETS.items()]
    named.append({"name": "RAY_AUTH_TOKEN", "valueFrom": secret(f"{own}-ray", "auth_token")})
    return [{"name": name, "value": value} for name, value in plain.items()] + named


def secret(name: str, key: str) -> Manifest:
    return {"secretKeyRef": {"name": name, "key": key}}


def _paths(settings: Settings) -> list[str]:
    paths = [CONFIG_DIR, str(settings.data_dir), "/dev/shm", "/tmp/ray"]
    return paths + ([WEIGHTS_DIR] if settings.cluster.weights == "pvc" else [])


def _volumes(settings: Settings) -> list[Manifest]:
    name = settings.cluster.name
    volumes: list[Manifest] = [
        {"name": "profile", "configMap": {"name": f"{name}-profile"}},
        {"name": "state", "persistentVolumeClaim": {"claimName": f"{name}-state"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "ray", "emptyDir": {}},
    ]
    if settings.cluster.weights == "pvc":
        claim = {"claimName": f"{name}-weights"}
        volumes.append({"name": "weights", "persistentVolumeClaim": claim})
    return volumes


def template(settings: Settings, component: str, containers: list[Manifest]) -> Manifest:
    return {
        "metadata": {"labels": labels(settings, component)},
        "spec": {
            "serviceAccountName": settings.cluster.name,
            "terminationGracePeriodSeconds": int(settings.gateway.request_timeout_s) + 30,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
            "containers": containers,
            "volumes": _volumes(settings),
        },
    }
