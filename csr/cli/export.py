"""`csr export RUN OUT`: a run's best weights as a folder that `CSR.from_pretrained` and the hub take."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from csr.config.parser import Parser
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.runtime.output_paths import check_output_folder

if TYPE_CHECKING:
    from csr.model import CSR


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, write the folder, report its content; return the exit code.

    Raises:
        InputError: the run or the checkpoint cannot be used, OUT is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    from csr.model.sharing.config_file import CONFIG
    from csr.model.sharing.onnx import check_onnx, export_onnx
    from csr.model.sharing.pretrained import GRAPH, README, WEIGHTS

    check_output_folder(options.out, overwrite=options.overwrite, content="its files", flag="")
    _check_no_run(options.out)
    if options.onnx:
        check_onnx()
    model, weights = _load(options.run, options.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / GRAPH
        if options.onnx:  # first: a backbone that cannot be exported leaves no half of a folder
            export_onnx(model, graph)
        model.save_pretrained(options.out)
        if options.out.resolve() not in (options.run.resolve(), options.run.resolve().parent):
            _forget_refinement(options.out)
        if options.onnx:
            _copy(graph, options.out / GRAPH)
    assert model.card is not None
    written = [CONFIG, WEIGHTS, README, *([GRAPH] if options.onnx else [])]
    print(f"{options.out}: {', '.join(written)}")
    sizes = f"{len(model.card.concept_names)} concepts, {len(model.card.target_names)} diagnoses"
    print(f"Weights: {weights} of {options.run}; {sizes}")
    if model.card.reference.target_threshold_T is None:
        print("No thresholds are stored with this checkpoint: 0.5 is used.")
    print(f"Load it with: CSR.from_pretrained({str(options.out)!r})")
    return 0


def _check_no_run(out: Path) -> None:
    """Raise InputError for a run's folder: its config.json would become that of the export."""
    from csr.model.sharing.loading import is_run

    if is_run(out):
        raise InputError(f"{out}: is the folder of a run, which stays as it is: give another folder")


def _forget_refinement(out: Path) -> None:
    """Remove what `csr refine` wrote beside the weights that were here before."""
    from csr.explain.refine.options import KEEP, RESULTS, WEIGHTS

    if (out / RESULTS).is_file():
        for name in (RESULTS, KEEP, WEIGHTS):
            (out / name).unlink(missing_ok=True)


def _copy(graph: Path, path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        with open(graph, "rb") as written:
            shutil.copyfileobj(written, file)

    try:
        write_atomic(path, write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _load(folder: Path, checkpoint: str | None) -> tuple[CSR, str]:
    """Return the model of a run, or of a model folder such as a refined one; and which weights these are."""
    from csr.model.sharing.loading import BEST_CHECKPOINT, is_run, load_file, load_model, load_run
    from csr.model.sharing.pretrained import WEIGHTS

    if folder.suffix == ".pth":
        return load_file(folder, checkpoint=checkpoint), folder.name
    if (folder / WEIGHTS).is_file() and not is_run(folder):
        return load_model(folder, checkpoint=checkpoint), WEIGHTS
    return load_run(folder, checkpoint=checkpoint or BEST_CHECKPOINT), checkpoint or BEST_CHECKPOINT


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr export",
        description="Turn a run into a folder with config.json, weights and README.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        help="output_dir/exp_name of `csr train`, a .pth in it, or a refined model",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; must be empty or new")
    parser.add_argument("--checkpoint", help="name of a .pth in RUN; None: best of stage 3")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx (needs the extra onnx)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in OUT")
    return parser
