"""Manifests as files: written, checked against schemas, compared with those in a folder."""

import difflib
import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from cluster.errors import ConfigError, DataError, Unavailable
from cluster.render import aws, kuberay
from cluster.render.nodes import require_room
from cluster.settings import INFRA, Settings, load, profile_path

Target = Literal["kuberay", "aws"]
Files = dict[str, str]

_MAKERS: Final = {"kuberay": kuberay.manifests, "aws": aws.manifests}
_NO_KEY: Final = "0" * 64
_POLICY_KEYS: Final = {"Version", "Statement"}


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice, and text of several lines as it is."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Plain, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Plain.add_representer(str, _text)


def rendered(profile: str, target: Target) -> Files:
    """The manifests' names and texts. ConfigError, with the field's name, when there is no such
    profile, when it is for one machine, or when its nodes are unknown or too few."""
    settings = _settings(profile)
    require_room(settings)
    text = profile_path(profile).read_text(encoding="utf-8")
    files = {
        name: _written(name, documents, profile)
        for name, documents in _MAKERS[target](settings, text).items()
    }
    return files | ({"profile.yaml": text} if target == "aws" else {})


def problems(files: Mapping[str, str]) -> Iterator[str]:
    """What a schema says against the files, one line each with file, kind and field."""
    for name, text in files.items():
        if name == "profile.yaml":
            continue
        for document in _documents(name, text):
            yield from (f"{name}: {problem}" for problem in _wrong(document))


def differences(files: Mapping[str, str], folder: Path) -> Iterator[str]:
    """The lines of a unified diff from what lies in `folder` to `files`."""
    there = read(folder)
    for name in sorted({*there, *files}):
        yield from difflib.unified_diff(
            there.get(name, "").splitlines(), files.get(name, "").splitlines(),
            f"{folder.name}/{name}", f"rendered/{name}", lineterm="",
        )  # fmt: skip


def read(folder: Path) -> Files:
    """The manifests in a folder. ConfigError when it is none."""
    if not folder.is_dir():
        raise ConfigError("folder", str(folder), "a folder that mainspring cluster render wrote")
    paths = [p for p in sorted(folder.iterdir()) if p.suffix in {".yaml", ".json"}]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def write(files: Mapping[str, str], folder: Path) -> None:
    """Put the files into the folder. Unavailable when it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"folder {folder}", str(error)) from error


def _settings(profile: str) -> Settings:
    """The profile, without the keys and secrets that are added where it runs."""
    try:
        values = yaml.safe_load(profile_path(profile).read_text(encoding="utf-8"))
        gateway = values.get("gateway", {})
    except (OSError, yaml.YAMLError, AttributeError):
        return load(profile)  # which names what is wrong
    settings = load(profile, gateway={"api_key_sha256": [_NO_KEY], **gateway})
    if settings.gateway.is_loopback:
        raise ConfigError("gateway.host", settings.gateway.host, "0.0.0.0: others must reach it")
    if settings.ray.address != "auto":
        raise ConfigError("ray.address", settings.ray.address, "auto: the cluster is there already")
    if not settings.cluster.nodes:
        raise ConfigError("cluster.nodes", [], "at least one kind of GPU node")
    return settings


def _written(name: str, documents: list[dict[str, Any]], profile: str) -> str:
    if name.endswith(".json"):
        return json.dumps(documents[0], indent=2) + "\n"
    head = f"# Written by `mainspring cluster render --profile {profile}`: change the profile.\n"
    return head + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=100)


def _documents(name: str, text: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(text)] if name.endswith(".json") else list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(name, f"is not what its name says: {error}") from error


def _wrong(document: Any) -> Iterator[str]:
    kind = document.get("kind") if isinstance(document, dict) else None
    if isinstance(document, dict) and set(document) == _POLICY_KEYS:
        return  # AWS publishes no schema of policies
    if kind is None:
        schema, shown = _of_ray(), "cluster file"
    elif kind in (kinds := _of_kubernetes())["kinds"]:
        wanted = {"$ref": f"#/definitions/{kinds['kinds'][kind]}"}
        schema, shown = {**wanted, "definitions": kinds["definitions"]}, kind
    else:
        yield f"{kind} is a kind that is not checked"
        return
    for error in Draft202012Validator(schema).iter_errors(document):
        deepest = best_match([error]) or error
        yield f"{shown} {'.'.join(map(str, deepest.absolute_path)) or '.'}: {deepest.message}"


@cache
def _of_kubernetes() -> dict[str, Any]:
    packed = (INFRA / "schemas" / "kubernetes.json.gz").read_bytes()
    return cast(dict[str, Any], json.loads(gzip.decompress(packed)))


@cache
def _of_ray() -> dict[str, Any]:
    found = importlib.util.find_spec("ray")
    assert found is not None and found.origin is not None
    path = Path(found.origin).parent / "autoscaler" / "ray-schema.json"
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
