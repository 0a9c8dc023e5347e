"""What a GPU run stands on: packages and the card, a line each; exit code 1 where something is lacking.

python scripts/gpu_versions.py           versions, what is missing, the GPUs that torch finds
python scripts/gpu_versions.py --needs   names of what this Python lacks for csr and its tests, nothing else
"""

from __future__ import annotations

import configparser
import platform
import sys
from importlib import metadata
from pathlib import Path

SHOWN = ("deepspeed", "timm", "transformers", "numpy", "pytest")
# whose own needs are looked at too: torch and its like come with a machine, these do not
FOLLOWED = ("deepspeed", "pydantic", "pydicom")
# of packages that are not here to be asked (DeepSpeed 0.19, pydantic 2)
USUAL = {
    "deepspeed": ("einops", "hjson", "msgpack", "ninja", "packaging", "py-cpuinfo", "pydantic"),
    "pydantic": ("annotated-types", "pydantic-core", "typing-inspection", "typing-extensions>=4.14.1"),
}


def main() -> int:
    if "--needs" in sys.argv[1:]:
        print(" ".join(missing()))
        return 0
    import torch

    print(f"python    {platform.python_version()}")
    print(f"torch     {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for name in SHOWN:
        print(f"{name:<9} {version_of(name) or 'not installed'}")
    lacking = missing()
    if lacking:
        print(f"error     this Python lacks {', '.join(lacking)}: put their wheels into WHEELS=DIR")
        return 1
    if not torch.cuda.is_available():
        print("error     torch finds no GPU: is it built for CUDA, and new enough for the driver?")
        return 1
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        print(f"gpu {index}     {torch.cuda.get_device_name(index)}, compute capability {major}.{minor}")
    print(f"nccl      {'.'.join(map(str, torch.cuda.nccl.version()))}")
    return 0


def missing() -> list[str]:
    """Return requirements of csr and its tests that are not installed, or too old."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging"]
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parent.parent / "setup.cfg", encoding="utf-8")
    wanted = [*setup["options"]["install_requires"].split(), "pytest>=7"]
    found: list[str] = []
    seen: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop(0))
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        here = version_of(requirement.name)
        if here is None or not requirement.specifier.contains(here, prereleases=True):
            found.append(f"{requirement.name}{requirement.specifier}")
        if requirement.name in FOLLOWED and requirement.name not in seen:
            seen.add(requirement.name)
            wanted += needs_of(requirement.name)
    return list(dict.fromkeys(found))


def needs_of(name: str) -> list[str]:
    """Return the requirements of a package; what they usually are if it is not here to be asked."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return list(USUAL.get(name, ()))


def version_of(name: str) -> str | None:
    """Return the installed version of a package, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
