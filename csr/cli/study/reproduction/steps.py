"""The steps of a plan, each skipped where its result is there: import, train, atlas, refine, compare."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csr.cli import atlas, data, refine
from csr.cli.study.compare import compare_runs
from csr.cli.study.reproduction.plan import TABLES, Plan, Planned
from csr.cli.study.reproduction.stand_in import keep_text
from csr.cluster.grid import SweepRun
from csr.cluster.run_sweep import command_of, run_all
from csr.data.labels.summary import ORIGIN_FILE
from csr.explain.atlas.layout import INDEX, KEEP, NUMBERS
from csr.explain.refine.options import RESULTS as REFINED
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json
from csr.runtime.json_file import parse_json, read_json, read_text

Say = Callable[[str], None]
MAX_ATLAS_BYTES = 2**30
DONE, TO_DO = "done", "to do"
IMPORTED = "import.json"  # beside the imported data: what was imported, and by which command


def states(plan: Plan) -> list[tuple[str, str, Path]]:
    """Return every step: what it does, `done`, `unfinished` or `to do`, and where its result lies.

    Raises:
        InputError: a run's folder holds results of other options, or OUT other data.
    """
    rows: list[tuple[str, str, Path]] = []
    if plan.raw is not None:
        rows.append(("import", DONE if _is_imported(plan) else TO_DO, plan.data))
    rows += [("train", one.run.state(), one.run.config.folder) for one in plan.runs]
    for one in _refined(plan):
        rows.append(("atlas", DONE if _has_atlas(plan, one.run) else TO_DO, plan.place("atlas", one.run)))
        rows.append(("refine", DONE if _is_refined(plan, one.run) else TO_DO, plan.place("refined", one.run)))
    return [*rows, *(("compare", TO_DO, plan.comparison(start)) for start in plan.starts)]


def run(plan: Plan, *, ranks: int, say: Say) -> list[Path]:
    """Do what is not done; return the files of decisions that a person edited.

    Args:
        plan: of `make_plan`.
        ranks: processes of each run of csr train.
        say: prints a line.

    Raises:
        InputError: the data cannot be used, OUT holds other data, or a run refused its input.
        StoppedError: a run failed.
        PreemptedError: a signal; the same command goes on.
    """
    if plan.raw is not None and not _is_imported(plan):
        say(f"=== Import {plan.raw} ===")
        what, *flags = plan.protocol.importer
        if links_into := plan.runs[0].run.config.data.links_into:
            flags += ["--links_into", *links_into]
        data.main([what, str(plan.raw), str(plan.data), "--overwrite", *flags])
        write_json(plan.out / IMPORTED, _import_of(plan))
    _check_data(plan)
    run_all([one.run for one in plan.runs], [], command=command_of(ranks), report=say)
    edited = [path for one in _refined(plan) if (path := _refine(plan, one.run, say)) is not None]
    for start in plan.starts:
        folders = [one.run.config.folder for one in plan.runs if one.start == start]
        say(f"=== Compare: {start.title} ===")
        compare_runs(folders, by=("seed",), out=plan.comparison(start))
    return edited


def _is_imported(plan: Plan) -> bool:
    """Return whether the import is whole, and this one.

    Raises:
        InputError: an import of another folder, or by another importer, lies there.
    """
    path, wanted = plan.out / IMPORTED, _import_of(plan)
    try:
        earlier = read_json(path)
    except FileNotFoundError:
        return False  # not imported yet, or not to its end
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): give another --out") from None
    if earlier != wanted:
        was = earlier if isinstance(earlier, dict) else {}
        raise InputError(
            f"{path}: {plan.out} holds an import of {was.get('data')} by csr data {was.get('importer')}, not "
            f"of {wanted['data']} by csr data {wanted['importer']}: give that DATA, or another --out"
        )
    return (plan.data / ORIGIN_FILE).is_file()  # an import writes it last


def _import_of(plan: Plan) -> dict[str, str]:
    return {"data": str(plan.raw), "importer": shlex.join(plan.protocol.importer)}


def _check_data(plan: Plan) -> None:
    """Raise InputError, before training, for a folder that lacks tables or images."""
    for name in TABLES[:2]:
        if not plan.table(name).is_file():
            raise InputError(f"{plan.table(name)}: no such file: give the folder that csr data wrote")
    for folder in dict.fromkeys(plan.protocol.folders):
        if not (plan.data / folder).is_dir():
            raise InputError(
                f"{plan.data / folder}: no such folder: put the images, or a link to them, there"
            )


def _refined(plan: Plan) -> list[Planned]:
    """Return the runs whose atlas is refined: those of CSR, where training and test images have boxes."""
    has_boxes = plan.raw is not None or all(plan.table(name).is_file() for name in TABLES[2:])
    return [one for one in plan.runs if one.method == "csr" and has_boxes]


def _has_atlas(plan: Plan, run: SweepRun) -> bool:
    """Return whether the atlas is whole, and younger than the run's results."""
    index, results = plan.place("atlas", run) / INDEX, run.config.folder / "results.json"
    return index.is_file() and results.is_file() and index.stat().st_mtime >= results.stat().st_mtime


def _is_refined(plan: Plan, run: SweepRun) -> bool:
    """Return whether the refined model is that of the present atlas and decisions."""
    record, keep = plan.place("refined", run) / REFINED, plan.keep(run)
    if not (record.is_file() and keep.is_file() and _has_atlas(plan, run)):
        return False
    if record.stat().st_mtime < (plan.place("atlas", run) / INDEX).stat().st_mtime:
        return False
    return refinement(plan, run)["keep_csv"]["sha256"] == hashlib.sha256(keep.read_bytes()).hexdigest()


def refinement(plan: Plan, run: SweepRun) -> dict[str, Any]:
    """Return refine.json of a run: scores before and after.

    Raises:
        InputError: it cannot be read.
    """
    path = plan.place("refined", run) / REFINED
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): remove the folder") from None
    assert isinstance(record, dict)
    return record


def _refine(plan: Plan, run: SweepRun, say: Say) -> Path | None:
    """Make atlas, decisions and refined model of a run as far as they lack; return an edited keep.csv."""
    place, keep = plan.place("atlas", run), plan.keep(run)
    boxes = [str(plan.table(name)) for name in TABLES[2:]]
    if not _has_atlas(plan, run):
        say(f"=== Atlas of {run.name} ===")
        _clear_unfinished(place, INDEX)
        words = [str(run.config.folder), "--out", str(place), "--overwrite", "--boxes_csv", boxes[0]]
        atlas.main(words)
    numbers = parse_json(read_text(place / NUMBERS, max_bytes=MAX_ATLAS_BYTES))
    by_rule = keep_text(str(place / KEEP), numbers)
    if not keep.is_file():
        keep.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(keep, lambda file: file.write(by_rule.encode()))
    if not _is_refined(plan, run):
        say(f"=== Refine {run.name} by {keep} ===")
        refined = plan.place("refined", run)
        _clear_unfinished(refined, REFINED)
        words = [str(run.config.folder), "--keep", str(keep), "--out", str(refined), "--overwrite"]
        refine.main([*words, "--boxes_csv", boxes[1]])
    return None if keep.read_text(encoding="utf-8") == by_rule else keep


def _clear_unfinished(folder: Path, last: str) -> None:
    """Remove what a step left that was killed before it wrote its last file."""
    if folder.is_dir() and not (folder / last).exists():
        shutil.rmtree(folder)
