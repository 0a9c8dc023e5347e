"""Print versions of what a GPU run stands on, a line each; exit code 1 where torch cannot use a GPU."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

PACKAGES = ("deepspeed", "timm", "transformers", "numpy", "pytest")


def main() -> int:
    import torch

    print(f"python    {platform.python_version()}")
    print(f"torch     {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for name in PACKAGES:
        try:
            print(f"{name:<9} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name:<9} not installed")
    if not torch.cuda.is_available():
        print("error     torch finds no GPU: is it built for CUDA, and new enough for the driver?")
        return 1
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        print(f"gpu {index}     {torch.cuda.get_device_name(index)}, compute capability {major}.{minor}")
    print(f"nccl      {'.'.join(map(str, torch.cuda.nccl.version()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
