"""What the machines have that a profile may name, and whether its models fit on them.

Sizes are those of Amazon's list of instance types. On Kubernetes the same names are the value of
the label node.kubernetes.io/instance-type.
"""

from dataclasses import dataclass
from typing import Final

from cluster.errors import ConfigError
from cluster.settings import NodeSection, Settings

_SYSTEM_CPUS: Final = 2
_USABLE_MEMORY: Final = 0.85


@dataclass(frozen=True)
class Machine:
    """`accelerator` is Ray's name of the GPU, "" without one."""

    cpus: int
    memory_gib: int
    gpus: int = 0
    accelerator: str = ""

    @property
    def pod_cpus(self) -> int:
        """What a pod that has the machine for itself may ask for; the rest is the system's."""
        return max(1, self.cpus - _SYSTEM_CPUS)

    @property
    def pod_memory_gib(self) -> int:
        return int(self.memory_gib * _USABLE_MEMORY)


MACHINES: Final = {
    "m7i.2xlarge": Machine(8, 32),
    "m7i.4xlarge": Machine(16, 64),
    "m7i.8xlarge": Machine(32, 128),
    "g6e.xlarge": Machine(4, 32, 1, "L40S"),
    "g6e.2xlarge": Machine(8, 64, 1, "L40S"),
    "g6e.4xlarge": Machine(16, 128, 1, "L40S"),
    "g6e.8xlarge": Machine(32, 256, 1, "L40S"),
    "g6e.12xlarge": Machine(48, 384, 4, "L40S"),
    "g6e.24xlarge": Machine(96, 768, 4, "L40S"),
    "g6e.48xlarge": Machine(192, 1536, 8, "L40S"),
    "p5.4xlarge": Machine(16, 256, 1, "H100"),
    "p5.48xlarge": Machine(192, 2048, 8, "H100"),
    "p5e.48xlarge": Machine(192, 2048, 8, "H200"),
    "p5en.48xlarge": Machine(192, 2048, 8, "H200"),
}


def machine(field: str, instance: str) -> Machine:
    """The machine of this name. ConfigError, which names the `field`, when there is none."""
    if instance not in MACHINES:
        raise ConfigError(field, instance, f"one of {sorted(MACHINES)}")
    return MACHINES[instance]


def head_machine(settings: Settings) -> Machine:
    return machine("cluster.head", settings.cluster.head)


def node_machine(node: NodeSection) -> Machine:
    """ConfigError when the node has no GPU: everything else runs on the head."""
    found = machine(f"cluster.nodes.{node.name}.instance", node.instance)
    if not found.gpus:
        raise ConfigError(f"cluster.nodes.{node.name}.instance", node.instance, "one with GPUs")
    return found


def require_room(settings: Settings) -> None:
    """ConfigError when what the profile's models need can never be had from its nodes."""
    nodes = [(node, node_machine(node)) for node in settings.cluster.nodes]
    head_machine(settings)
    models = [model for model in settings.models if model.device == "gpu"]
    for model in models:
        able = [
            found.gpus for _, found in nodes if model.accelerator_type in {None, found.accelerator}
        ]
        if model.tensor_parallel > max(able, default=0):
            kind = model.accelerator_type or "GPU"
            raise ConfigError(
                "cluster.nodes", [node.instance for node, _ in nodes],
                f"a node with {model.tensor_parallel} {kind} for model {model.id}",
            )  # fmt: skip
    needed = sum(
        m.replicas.max * m.tensor_parallel * float(m.engine.get("gpu_memory_utilization", 1.0))
        for m in models
    )
    there = sum(node.max * found.gpus for node, found in nodes)
    if needed > there:
        raise ConfigError(
            "cluster.nodes", f"at most {there} GPUs", f"{needed:g}, which the models' replicas need"
        )
