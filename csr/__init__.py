"""csr: Concept-based Similarity Reasoning (Huy et al., CVPR 2025, arXiv 2503.06873) on DeepSpeed."""

__version__ = "0.1.0"
