"""`csr explain MODEL IMAGE --out DIR`: what a diagnosis rests on, as JSON, a picture and a page."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr.config.parser import Parser, Whole
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json
from csr.runtime.output_paths import check_output_folder

if TYPE_CHECKING:
    from csr.explain.explanation import Explanation
    from csr.explain.neighbours import Neighbours
    from csr.model.sharing.card import Card
    from csr.model.sharing.origin import Origin

JSON, PICTURE, PAGE = "explanation.json", "explanation.png", "index.html"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, explain, write the files; return the exit code.

    Raises:
        InputError: the model, the image or the atlas cannot be used, DIR is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    import torch

    from csr.data.images.resize import resize_file
    from csr.engine.device import pick_device
    from csr.explain.explanation import explain, to_dict
    from csr.explain.neighbours import read_neighbours
    from csr.model.sharing.loading import load_model
    from csr.model.sharing.origin import origin_of

    check_output_folder(options.out, overwrite=options.overwrite, content="its files")
    model = load_model(options.model, checkpoint=options.checkpoint).to(pick_device(options.device))
    card = model.card
    assert card is not None
    given = _target(card, options.diagnosis)
    neighbours: Neighbours = {}
    if options.atlas is not None:
        neighbours = read_neighbours(options.atlas, model)
    pre = card.preprocessing
    resized = resize_file(options.image, pre.stored_size, resize=pre.resize)
    explanation = explain(model, torch.from_numpy(resized.pixels_CSS).unsqueeze(0), frame=resized.frame)[0]
    target = explanation.chosen if given is None else given
    origin = origin_of(model, options.model)
    record = {
        **to_dict(explanation, neighbours=neighbours, show_ids=options.show_ids),
        "image": {
            "name": options.image.name,
            "sha256": hashlib.sha256(options.image.read_bytes()).hexdigest(),
            "height": resized.height,
            "width": resized.width,
            "frame": list(resized.frame),
        },
        **dataclasses.asdict(origin),
    }
    write_files(options, explanation, record, neighbours, target=target, origin=origin)
    for note in resized.notes:
        print(f"Notice: {options.image.name}: {note.line}", file=sys.stderr)
    _print_summary(explanation, options.out, options.max_concepts, target)
    return 0


def _target(card: Card, name: str | None) -> int | None:
    if name is None or name in card.target_names:
        return None if name is None else card.target_names.index(name)
    raise InputError(f"--diagnosis {name}: the model has {', '.join(card.target_names)}: give one of them")


def write_files(
    options: argparse.Namespace,
    explanation: Explanation,
    record: dict[str, Any],
    neighbours: Neighbours,
    *,
    target: int,
    origin: Origin,
) -> None:
    """Write JSON, picture and page, each atomically; `target` is the diagnosis whose concepts are shown.

    Raises:
        InputError: the folder cannot be written.
    """
    from csr.data.images.decode import decode_image
    from csr.explain.page import draw_sheet, write_page
    from csr.report.pictures import TILE_PX, picture_of, png_bytes

    concepts = explanation.shown(options.max_concepts, target=target)
    image_HW3 = picture_of(decode_image(options.image, min_size=2 * TILE_PX).pixels)
    sheet = draw_sheet(
        image_HW3,
        explanation,
        concepts=concepts,
        target=target,
        neighbours=neighbours,
        show_ids=options.show_ids,
        origin=origin,
    )
    page = write_page(
        image_HW3,
        explanation,
        concepts=concepts,
        target=target,
        neighbours=neighbours,
        title=options.image.name,
        has_atlas=options.atlas is not None,
        show_ids=options.show_ids,
        origin=origin,
    ).encode()
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / JSON, record)
        write_atomic(out / PICTURE, lambda file: file.write(png_bytes(sheet)))
        write_atomic(out / PAGE, lambda file: file.write(page))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None


def _print_summary(explanation: Explanation, out: Path, maximum: int, target: int) -> None:
    from csr.model.contributions import NO_MEDIANS

    card, seen = explanation.card, explanation.seen
    if seen is not None and seen.note is not None:
        print(seen.note)
    for t in explanation.probability_T.argsort(descending=True).tolist():
        mark = "*" if bool(explanation.present_T[t]) else " "
        print(f"{mark} {float(explanation.probability_T[t]):.3f}  {card.target_names[t]}")
    shown = explanation.shown(maximum, target=target)
    base = "an image without findings" if explanation.is_centred else "bias"
    print(f"{card.target_names[target]}: logit {float(explanation.logit_T[target]):+.2f}")
    print(f"  {float(explanation.base_T[target]):+.2f}  {base}")
    for k in shown:
        called = "" if bool(explanation.active_K[k]) else "  (the model does not call this finding)"
        added = float(explanation.share_TKM[target, k].sum())
        print(f"  {added:+.2f}  {card.concept_names[k]}{called}")
    num = len(card.concept_names) - len(shown)
    if num:
        print(f"  {explanation.rest(shown, target=target):+.2f}  {num} other concepts together")
    for line in card.notices():
        print(line)
    if not explanation.is_centred:
        print(NO_MEDIANS)
    print(f"{out}: {JSON}, {PICTURE}, {PAGE}")


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr explain",
        description="Show what the diagnosis of an image rests on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder of `csr export`, folder of a run, or hub id")
    parser.add_argument("image", metavar="IMAGE", type=Path, help="png, jpg or dcm file")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder; empty or new")
    parser.add_argument("--atlas", metavar="DIR", type=Path, help="atlas of this model: training regions")
    parser.add_argument(
        "--max_concepts",
        type=Whole(1, 4096),
        default=6,
        help="concepts with a picture, the largest contributions",
    )
    parser.add_argument("--diagnosis", metavar="NAME", help="to explain; None: the likeliest of those called")
    parser.add_argument(
        "--show_ids", action="store_true", help="name training images, whose ids are often patients'"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier explanation in DIR")
    parser.add_argument("--checkpoint", help="name of a .pth, where MODEL is a run; None: best of stage 3")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser
