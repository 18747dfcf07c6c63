"""GPU machines of the clouds, and where they are let: as their providers' pages said in 2026.

A region that is missing here may have them by now: `anywhere=true` renders it all the same.
"""

from __future__ import annotations

from typing import NamedTuple


class Machine(NamedTuple):
    """One node of eight GPUs."""

    name: str
    cpus: int
    regions: tuple[str, ...]


AWS = {
    "a100": Machine(
        "p4d.24xlarge",
        96,
        (
            *("us-east-1", "us-east-2", "us-west-2", "eu-west-1"),
            *("ap-northeast-1", "ap-northeast-2"),
        ),
    ),
    "a100-80gb": Machine("p4de.24xlarge", 96, ("us-east-1", "us-west-2")),
    "h100": Machine(
        "p5.48xlarge",
        192,
        (
            *("us-east-1", "us-east-2", "us-west-2", "eu-west-2", "eu-north-1"),
            *("ap-northeast-1", "ap-south-1", "ap-southeast-2", "ap-southeast-3", "sa-east-1"),
        ),
    ),
}
GCP = {
    "a100": Machine(
        "a2-highgpu-8g",
        96,
        (
            *("us-central1", "us-east1", "us-west1", "us-west3", "us-west4", "europe-west4"),
            *("asia-northeast1", "asia-northeast3", "asia-southeast1", "me-west1"),
        ),
    ),
    "a100-80gb": Machine(
        "a2-ultragpu-8g",
        96,
        ("us-central1", "us-east4", "us-east5", "europe-west4", "asia-southeast1"),
    ),
    "h100": Machine(
        "a3-highgpu-8g",
        208,
        (
            *("us-central1", "us-east4", "us-east5", "us-west1", "us-west4", "europe-west1"),
            *("europe-west4", "asia-northeast1", "asia-southeast1"),
        ),
    ),
}
CLOUDS = {"aws": AWS, "gcp": GCP}
KUBERNETES = {"a100": (90, "900Gi"), "a100-80gb": (90, "1000Gi"), "h100": (180, "1600Gi")}
"""CPUs and memory that a pod with a whole such node may ask for."""
