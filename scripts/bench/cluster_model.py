"""A model of csr on 8 to 1,024 GPUs: compute, ZeRO-2 traffic and data, added up from their assumptions.

    python scripts/bench/cluster_model.py
    python scripts/bench/cluster_model.py --peak_tflops 312 --network_gb_s 25 --mfu 0.35

Nothing is measured here. Parameters, FLOPs and norm layers are counted on the real networks; the rest are
the flags below, each with what it stands for. Communication is taken not to overlap with computing, data is
(it is read ahead), so that a step takes max(compute + communication, data). Results are printed and written
to scripts/bench/results/NAME.txt and NAME.json.

Letters: B images per GPU and step, G GPUs, P parameters, N images.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from measuring import RESULTS
from torch import nn

from csr.data.transforms import stored_size
from csr.engine.flops import count_flops

GPUS = (1, 8, 16, 64, 256, 1024)
BACKWARD = 2  # times the FLOPs of forward
BYTES = {
    "fp16": 2,
    "bf16": 4,
}  # of a weight and of a gradient on the wire: bf16 is autocast over fp32 weights
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Network:
    """Counts of a backbone at its image size: forward FLOPs, parameters, normalisations over ranks."""

    name: str
    image_size: int
    flops: float
    parameters: int
    norms: int


@dataclass(frozen=True)
class Cluster:
    """Assumptions.

    Attributes:
        peak: FLOP/s of a GPU's matrix products.
        mfu: share of them that a step reaches alone.
        gpus_per_node: joined by `node`; nodes by `network`.
        node, network: bytes/s of one GPU in one direction.
        latency: seconds of one hop.
        read: bytes/s of decoded images, to one GPU.
        bucket: elements that go out in one collective.
    """

    peak: float
    mfu: float
    gpus_per_node: int
    node: float
    network: float
    latency: float
    read: float
    bucket: float


def count(name: str, image_size: int) -> Network:
    """Count a timm network without weights in memory."""
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0).eval()
        image = torch.empty(1, 3, image_size, image_size)
        flops = count_flops(lambda: net(image))
    norms = sum(isinstance(module, NORMS) for module in net.modules())
    return Network(name, image_size, flops, sum(p.numel() for p in net.parameters()), norms)


def step(net: Network, cluster: Cluster, *, gpus: int, batch: int, precision: str) -> dict[str, float]:
    """Seconds of a stage-1 step and its parts.

    ZeRO-2: gradients are reduce-scattered and new weights gathered, each (G - 1) / G of all bytes through
    every GPU's link, in rings of G - 1 hops. BatchNorm over ranks: one small all-reduce forward and one
    backward, as a tree of 2 log2 G hops.
    """
    compute = batch * net.flops * (1 + BACKWARD) / (cluster.mfu * cluster.peak)
    link = cluster.node if gpus <= cluster.gpus_per_node else cluster.network
    rings = 2 * math.ceil(net.parameters / cluster.bucket)
    volume = 2 * net.parameters * BYTES[precision] * (gpus - 1) / gpus
    zero = volume / link + rings * (gpus - 1) * cluster.latency
    norm = 2 * net.norms * 2 * math.log2(gpus) * cluster.latency
    data = batch * 3 * stored_size(net.image_size) ** 2 / cluster.read
    return {
        "compute": compute,
        "zero": zero,
        "norm": norm,
        "data": data,
        "step": max(compute + zero + norm, data),
    }


def later_stages(net: Network, cluster: Cluster, *, gpus: int, images: int) -> float:
    """Seconds of the passes over all images that stages 2 and 3 need once."""
    return 2 * math.ceil(images / gpus) * net.flops / (cluster.mfu * cluster.peak)


def rows(net: Network, cluster: Cluster, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One for each number of GPUs."""
    found: list[dict[str, Any]] = []
    for gpus in GPUS:
        parts = step(net, cluster, gpus=gpus, batch=options.batch, precision=options.precision)
        rate = gpus * options.batch / parts["step"]
        strong = max(1, options.effective_batch // gpus)
        small = step(net, cluster, gpus=gpus, batch=strong, precision=options.precision)
        found.append(
            {
                "network": net.name,
                "gpus": gpus,
                **parts,
                "images_per_s": rate,
                "efficiency": rate / (gpus * found[0]["images_per_s"]) if found else 1.0,
                "fixed_batch": strong,
                "fixed_images_per_s": gpus * strong / small["step"],
                "epoch_s": options.images / rate,
                "later_s": later_stages(net, cluster, gpus=gpus, images=options.images),
            }
        )
    return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--peak_tflops",
        type=float,
        default=989.0,
        help="matrix peak of a GPU (H100/H200, fp16 or bf16, dense)",
    )
    add("--mfu", type=float, default=0.4, help="share of it that a step reaches alone")
    add("--gpus_per_node", type=int, default=8, help="joined by NVLink")
    add(
        "--node_gb_s",
        type=float,
        default=350.0,
        help="NVLink of one GPU, one direction, as collectives see it",
    )
    add("--network_gb_s", type=float, default=45.0, help="network of one GPU (400 Gb/s each)")
    add("--latency_us", type=float, default=8.0, help="one hop of a collective")
    add("--read_gb_s", type=float, default=2.0, help="decoded images from the page cache, to one GPU")
    add("--bucket", type=float, default=5e8, help="elements in one ZeRO collective")
    add("--batch", type=int, default=64, help="images per GPU and step")
    add("--effective_batch", type=int, default=4096, help="of the columns in which it stays the same")
    add("--images", type=int, default=200_000, help="training images")
    add("--precision", choices=sorted(BYTES), default="fp16")
    add("--name", default="cluster_model", help="of the result files")
    add("--results", type=Path, default=RESULTS, help="folder of the result files")
    return parser.parse_args(argv)


def main() -> None:
    options = parse()
    cluster = Cluster(
        peak=1e12 * options.peak_tflops,
        mfu=options.mfu,
        gpus_per_node=options.gpus_per_node,
        node=1e9 * options.node_gb_s,
        network=1e9 * options.network_gb_s,
        latency=1e-6 * options.latency_us,
        read=1e9 * options.read_gb_s,
        bucket=options.bucket,
    )
    lines = ["A model, not a measurement. Assumptions:"]
    lines += [f"  {name} {value}" for name, value in vars(options).items() if name not in ("name", "results")]
    numbers: dict[str, Any] = {"assumptions": asdict(cluster), "rows": []}
    for name in ("vit_base_patch16_224", "resnet50"):
        net = count(name, 224)
        lines += [
            "",
            f"{name}: {net.flops / 1e9:.1f} GFLOP forward, {net.parameters / 1e6:.1f} M parameters, "
            f"{net.norms} norms over ranks",
            f"{'GPUs':>5} {'compute ms':>11} {'ZeRO ms':>8} {'norm ms':>8} {'data ms':>8} {'images/s':>11} "
            f"{'efficiency':>10} {'epoch s':>8} {'2+3 s':>7} | {'B':>5} {'images/s':>10}",
        ]
        for row in rows(net, cluster, options):
            numbers["rows"].append(row)
            ms = [1000 * row[part] for part in ("compute", "zero", "norm", "data")]
            lines.append(
                f"{row['gpus']:>5} {ms[0]:>11.1f} {ms[1]:>8.2f} {ms[2]:>8.2f} {ms[3]:>8.2f} "
                f"{row['images_per_s']:>11,.0f} {row['efficiency']:>10.0%} {row['epoch_s']:>8.2f} "
                f"{row['later_s']:>7.2f} | {row['fixed_batch']:>5} {row['fixed_images_per_s']:>10,.0f}"
            )
    print("\n".join(lines))
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"{options.name}.txt").write_text("\n".join(lines) + "\n")
    (options.results / f"{options.name}.json").write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
