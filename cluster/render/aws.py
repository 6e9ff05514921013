"""The profile as a cluster file for `ray up` on AWS, and the rights of its machines.

The head starts the stack; GPU nodes come from zero. Secrets lie in the Parameter Store below
/NAME/, each named as the variable that it sets; the head reads them when it starts. Ray's own token
is the file that `ray get-auth-token --generate` writes, and travels with the profile. Not covered:
the network around it (VPC, load balancer, TLS) and what the person who runs `ray up` may do.
"""

from typing import Any, Final

from cluster.render.nodes import head_machine, node_machine
from cluster.settings import NodeSection, Settings

Manifest = dict[str, Any]

_PROFILE: Final = "/home/ray/profile.yaml"
_TOKEN: Final = "/home/ray/.ray/auth_token"
_DISK_GB: Final = 300
_READ: Final = (
    "import boto3, shlex; "
    "pages = boto3.client('ssm', region_name='{region}').get_paginator('get_parameters_by_path')"
    ".paginate(Path='/{name}/', WithDecryption=True); "
    "print(*('export ' + p['Name'].rsplit('/', 1)[-1] + '=' + shlex.quote(p['Value']) "
    "for page in pages for p in page['Parameters']), sep=chr(10))"
)


def manifests(settings: Settings, profile: str) -> dict[str, list[Manifest]]:
    """File names and what is in them. The profile itself is copied by Ray, as profile.yaml."""
    return {
        "cluster.yaml": [_cluster(settings)],
        "iam-head.json": [_head_policy(settings)],
        "iam-worker.json": [_worker_policy(settings)],
    }


def _cluster(settings: Settings) -> Manifest:
    cluster = settings.cluster
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(node.max for node in cluster.nodes),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": round(cluster.idle_s / 60, 2),
        "provider": {
            "type": "aws", "region": cluster.region, "cache_stopped_nodes": False,
            "use_internal_ips": True,
            "security_group": {
                "GroupName": cluster.name,
                "IpPermissions": [_ssh_within()],
            },
        },
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": cluster.gpu_image, "head_image": cluster.image,
            "worker_image": cluster.gpu_image, "container_name": cluster.name,
            "pull_before_run": True,
            "run_options": ["--ulimit nofile=65536:65536", "--shm-size=16g"],
        },
        "available_node_types": {
            "head": _head(settings),
            **{node.name: _worker(settings, node) for node in cluster.nodes},
        },
        "head_node_type": "head",
        "file_mounts": {_PROFILE: "profile.yaml", _TOKEN: "~/.ray/auth_token"},
        "head_start_ray_commands": _head_start(settings),
        "worker_start_ray_commands": [
            "ray stop",
            "ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
        ],
    }  # fmt: skip


def _ssh_within() -> Manifest:
    """Only what is inside of AWS' private networks reaches SSH."""
    return {
        "FromPort": 22, "ToPort": 22, "IpProtocol": "tcp",
        "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
    }  # fmt: skip


def _head(settings: Settings) -> Manifest:
    machine = head_machine(settings)
    return {
        "resources": {"CPU": machine.pod_cpus},
        "min_workers": 0, "max_workers": 0,
        "node_config": _node(settings, settings.cluster.head, "head"),
    }  # fmt: skip


def _worker(settings: Settings, node: NodeSection) -> Manifest:
    machine = node_machine(node)
    config = _node(settings, node.instance, "worker")
    if node.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return {
        "resources": {
            "CPU": machine.cpus, "GPU": machine.gpus,
            f"accelerator_type:{machine.accelerator}": 1,
        },
        "min_workers": node.min, "max_workers": node.max, "node_config": config,
    }  # fmt: skip


def _node(settings: Settings, instance: str, role: str) -> Manifest:
    disk = {"VolumeSize": _DISK_GB, "VolumeType": "gp3", "Encrypted": True}
    return {
        "InstanceType": instance,
        "IamInstanceProfile": {"Name": f"{settings.cluster.name}-{role}"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # Only version 2 of the metadata service, which a forged request can't ask. Two hops: the
        # machine and its container.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }


def _head_start(settings: Settings) -> list[str]:
    cluster = settings.cluster
    read = _READ.format(region=cluster.region, name=cluster.name)
    return [
        "ray stop",
        f'umask 077 && python -c "{read}" > ~/secrets',
        ". ~/secrets && ray start --head --port=6379 --object-manager-port=8076 "
        "--autoscaling-config=~/ray_bootstrap_config.yaml",
        f". ~/secrets && export RAY_AUTH_TOKEN=$(cat {_TOKEN}) && "
        f"(nohup mainspring up --profile {_PROFILE} > ~/mainspring.log 2>&1 &)",
    ]


def _policy(*statements: Manifest) -> Manifest:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: list[str], resources: list[str], **condition: Any) -> Manifest:
    made = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
    return made | ({"Condition": condition} if condition else {})


def _head_policy(settings: Settings) -> Manifest:
    """What the head's machine may do: start, tag and end machines of this cluster's types, read
    its parameters and use its bucket."""
    cluster = settings.cluster
    ec2 = f"arn:aws:ec2:{cluster.region}:*"
    own = {"ec2:ResourceTag/ray-cluster-name": cluster.name}
    types = sorted({node.instance for node in cluster.nodes})
    beside = ["subnet", "security-group", "network-interface", "volume", "key-pair"]
    images = [f"arn:aws:ec2:{cluster.region}::image/*"]
    return _policy(
        # Describing knows no resources in EC2.
        _allow("Look", ["ec2:Describe*"], ["*"]),
        _allow("Start", ["ec2:RunInstances"], [f"{ec2}:instance/*"],
               StringEquals={"ec2:InstanceType": types}),
        _allow("StartBeside", ["ec2:RunInstances"],
               images + [f"{ec2}:{kind}/*" for kind in beside]),
        _allow("TagNew", ["ec2:CreateTags"], [f"{ec2}:instance/*", f"{ec2}:volume/*"],
               StringEquals={"ec2:CreateAction": "RunInstances"}),
        _allow("TagAndEndOwn", ["ec2:CreateTags", "ec2:TerminateInstances"],
               [f"{ec2}:instance/*"], StringEquals=own),
        _allow("GiveWorkersTheirRole", ["iam:PassRole"],
               [f"arn:aws:iam::*:role/{cluster.name}-worker"],
               StringEquals={"iam:PassedToService": "ec2.amazonaws.com"}),
        _allow("ReadSecrets", ["ssm:GetParametersByPath"],
               [f"arn:aws:ssm:{cluster.region}:*:parameter/{cluster.name}/*"]),
        *_bucket(settings, write=True),
    )  # fmt: skip


def _worker_policy(settings: Settings) -> Manifest:
    """What a worker's machine may do: read weights."""
    return _policy(*_bucket(settings, write=False))


def _bucket(settings: Settings, write: bool) -> list[Manifest]:
    place = f"arn:aws:s3:::{settings.cluster.bucket}"
    verbs = ["s3:GetObject"]
    if write:
        verbs += ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [
        _allow("List", ["s3:ListBucket"], [place]),
        _allow("Objects", verbs, [f"{place}/*"]),
    ]
