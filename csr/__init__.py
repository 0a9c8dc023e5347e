"""csr: Concept-based Similarity Reasoning (Huy et al., CVPR 2025, arXiv 2503.06873) on DeepSpeed."""

import sys

from csr.runtime.moved_names import MovedNames

__version__ = "0.1.0"

if not any(isinstance(finder, MovedNames) for finder in sys.meta_path):
    sys.meta_path.append(MovedNames())
