"""A record replayed on the image that it was made on: the same steps, computed again.

Letters: T targets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from pydantic import ValidationError

from csr.runtime.errors import InputError
from csr.serve.case import Outcome, default_replacement
from csr.serve.edits import checked_edits
from csr.serve.records.schemas import ModelName, RecordIn, StepIn
from csr.serve.schemas import Edits, ImageFacts
from csr.serve.session import Session

SAME = 1e-3  # of a probability: other processors round otherwise, other models differ by far more
_SHOWN = 12  # characters of a hash


class Run(Protocol):
    """Runs a diagnosis where it holds up no other request."""

    def __call__(self, call: Callable[[], Outcome]) -> Awaitable[Outcome]: ...


def read_record(data: bytes) -> RecordIn:
    """Read a record that anybody may have written.

    Raises:
        InputError: no JSON, not a record of `csr serve`, or a field that no record has so; what was sent is
            not in the message.
    """
    try:
        return RecordIn.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part)[:40] for part in first["loc"])
        where = f"{field}: " if field else ""
        raise InputError(f"no record of csr serve that can be read ({where}{first['msg'][:200]})") from None


def check_belongs(record: RecordIn, *, model: ModelName, image: ImageFacts) -> None:
    """Raise InputError, naming what differs, unless a record is of this model and this image."""
    differing = []
    if record.image.sha256 != image.sha256:
        differing.append(
            f"another image (sha256 {record.image.sha256[:_SHOWN]}.., this one has {image.sha256[:_SHOWN]}..)"
        )
    if record.model.sha256 != model.sha256:
        differing.append(
            f"another model (sha256 {record.model.sha256[:_SHOWN]}.., this one has {model.sha256[:_SHOWN]}..)"
        )
    if differing:
        raise InputError(f"the record is of {' and of '.join(differing)}: nothing was replayed")


async def replay(record: RecordIn, session: Session, *, run: Run) -> tuple[Session, float]:
    """Return a session with the steps of a record; the given one stays as it is.

    Args:
        record: of the session's image and model, see `check_belongs`.
        session: gives the image.
        run: see `Run`; called once for every state that was not seen before.

    Returns:
        The session, and the largest difference of a probability from the record's.

    Raises:
        InputError: a step that cannot follow the one before, or that the model has no names for.
    """
    case = session.case
    default = default_replacement(case.model)
    known: dict[str, Outcome] = {}
    fresh: Session | None = None
    difference = 0.0
    for number, step in enumerate(record.steps, start=1):
        where = f"step {number} of the record"
        try:
            edits = checked_edits(step.edits, case.card.concept_names, default=default, frame=case.frame)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if (step.action == "open") != (fresh is None) or (
            step.action in ("open", "reset") and edits != case.unedited
        ):
            raise InputError(f"{where}: {step.action} cannot have left these edits")
        if step.action == "undo" or step.action == "redo":
            assert fresh is not None
            moved = fresh.move(step.action, time=step.time)
            if not moved or fresh.edits != edits:
                raise InputError(f"{where}: {step.action} does not lead to its edits")
        else:
            key = edits.model_dump_json()
            if key not in known:
                known[key] = await run(_diagnosing(session, edits))
            if fresh is None:
                fresh = session.restarted(known[key], time=step.time)
            elif step.action == "edit" or step.action == "reset":
                fresh.edit(known[key], action=step.action, time=step.time)
        difference = max(difference, _difference(step, fresh, case.card.target_names, where))
    assert fresh is not None
    fresh.notes = record.notes
    return fresh, difference


def _diagnosing(session: Session, edits: Edits) -> Callable[[], Outcome]:
    return lambda: session.case.diagnose(edits)


def _difference(step: StepIn, session: Session, target_names: Sequence[str], where: str) -> float:
    if [one.name for one in step.result.diagnoses] != list(target_names):
        raise InputError(f"{where}: its diagnoses are not those of the model")
    probability_T = session.outcome.explanation.probability_T.tolist()
    pairs = zip(step.result.diagnoses, probability_T, strict=True)
    return max(abs(one.probability - probability) for one, probability in pairs)
