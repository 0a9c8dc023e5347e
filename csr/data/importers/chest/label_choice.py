"""The labels of a published data set that become concepts and targets, and what their cells mean.

CheXpert and MIMIC-CXR-JPG share a labeler: 1 is mentioned, 0 is denied, -1 is uncertain, and a blank cell is
a finding that the report does not mention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from csr.data.importers.image_rows import SOFT
from csr.data.importers.summary import Imported
from csr.data.labels.names import name_key, show, show_some
from csr.data.labels.vocabulary import DEFAULT_TARGETS
from csr.runtime.errors import InputError

NOTHING = "No Finding"
OBSERVATIONS = (
    NOTHING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
DISEASES = (NOTHING, "Pneumonia")
UNCERTAIN = {"ones": "1", "zeros": "0", "ignore": "", "soft": SOFT}
BLANK = {"zeros": "0", "ignore": ""}
_CELLS = {"0": "0", "0.0": "0", "1": "1", "1.0": "1"}


@dataclass(frozen=True)
class Choice:
    """Labels in the order of the columns.

    Attributes:
        concepts, targets: names as published.
    """

    concepts: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return concepts, then targets."""
        return (*self.concepts, *self.targets)

    @property
    def target_cols(self) -> tuple[str, ...] | None:
        """Return the targets for `--target_cols` of `csr train`; None: it finds them by name."""
        known = {name_key(name) for name in DEFAULT_TARGETS}
        by_name = {name for name in self.labels if name_key(name) in known}
        return None if by_name == set(self.targets) else self.targets


def choose_labels(
    dataset: str,
    names: Sequence[str],
    *,
    concepts: Sequence[str] | None,
    targets: Sequence[str] | None,
    default_concepts: Collection[str],
    default_targets: Collection[str],
) -> Choice:
    """Return the labels to write.

    Args:
        dataset: for messages.
        names: all labels of the data set.
        concepts, targets: those that the user named, in any case; None: the defaults without what the other
            list names.
        default_concepts, default_targets: among `names`.

    Raises:
        InputError: a name that is no label or is given twice, or nothing is left of one kind.
    """
    own_concepts = None if concepts is None else _named(dataset, names, concepts, "--concepts")
    own_targets = None if targets is None else _named(dataset, names, targets, "--targets")
    both = set(own_concepts or ()) & set(own_targets or ())
    if both:
        raise InputError(f"{show(min(both))} is in --concepts and in --targets; name it once")
    if own_targets is None:
        own_targets = tuple(n for n in names if n in default_targets and n not in (own_concepts or ()))
    if own_concepts is None:
        own_concepts = tuple(n for n in names if n in default_concepts and n not in own_targets)
    if not own_concepts or not own_targets:
        kind = "targets" if own_concepts else "concepts"
        raise InputError(f"{dataset}: no {kind} are left; name some with --{kind}")
    return Choice(own_concepts, own_targets)


def _named(dataset: str, names: Sequence[str], wanted: Sequence[str], flag: str) -> tuple[str, ...]:
    of_key = {name_key(name): name for name in names}
    for name in wanted:
        if name_key(name) not in of_key:
            known = show_some([show(n) for n in names])
            raise InputError(f"{flag}: {show(name)} is no label of {dataset}; it has {known}")
    chosen = [of_key[name_key(name)] for name in wanted]
    if twice := [name for name, count in Counter(chosen).items() if count > 1]:
        raise InputError(f"{flag} names {show(twice[0])} twice; name it once")
    return tuple(chosen)


def choose_observations(
    dataset: str, concepts: Sequence[str] | None, targets: Sequence[str] | None
) -> Choice:
    """Return the labels to write of the 14 of CheXpert and MIMIC-CXR-JPG, see `choose_labels`."""
    return choose_labels(
        dataset,
        OBSERVATIONS,
        concepts=concepts,
        targets=targets,
        default_concepts=[name for name in OBSERVATIONS if name != NOTHING],
        default_targets=DISEASES,
    )


@dataclass
class LabelPolicy:
    """What -1 and blank cells become.

    'No Finding' is 1 or blank in both data sets and never denied: its blank cells are 0 in any case.

    Attributes:
        uncertain: a key of `UNCERTAIN`.
        blank: a key of `BLANK`.
        counts: cells that were -1, and that were blank.
    """

    uncertain: str
    blank: str
    counts: Counter[str] = field(default_factory=Counter)

    def cells(self, row: dict[str, str], names: Sequence[str], *, location: str) -> list[str]:
        """Return the cells of some labels: 0, 1, '' (not annotated), or `SOFT` (two of three rows).

        Args:
            row: cells as published, by label.
            names: of the labels.
            location: file and line, for messages.

        Raises:
            InputError: a cell that is not 0, 1, -1 or blank.
        """
        return [self._cell(name, row[name], location) for name in names]

    def _cell(self, name: str, text: str, location: str) -> str:
        if text in _CELLS:
            return _CELLS[text]
        if text in ("-1", "-1.0"):
            self.counts["uncertain"] += 1
            return UNCERTAIN[self.uncertain]
        if text:
            raise InputError(
                f"{location}, column {show(name)}: {show(text)} is not 0, 1, -1 or blank; "
                "give the published file"
            )
        if name == NOTHING:
            return "0"
        self.counts["blank"] += 1
        return BLANK[self.blank]

    def notices(self) -> list[str]:
        """Return lines on what became of the cells that were neither 0 nor 1."""
        become = {
            "1": "1",
            "0": "0",
            "": "empty (not annotated)",
            SOFT: "2 of 3, three rows of an average and no readers",
        }
        uncertain, blank = become[UNCERTAIN[self.uncertain]], become[BLANK[self.blank]]
        lines = []
        if count := self.counts["uncertain"]:
            lines.append(f"{count:,} cells are -1, uncertain: {uncertain} (--uncertain {self.uncertain})")
        if count := self.counts["blank"]:
            lines.append(f"{count:,} cells are blank, not mentioned: {blank} (--blank {self.blank})")
        return lines


def count_notices(imported: Imported, counts: dict[str, tuple[int, int]]) -> None:
    """Add a notice on each number of a folder that is not the published one.

    Args:
        imported: its notices grow.
        counts: found and published number by what was counted.
    """
    for what, (found, published) in counts.items():
        if found != published:
            imported.notices.append(
                f"{found:,} {what} here; {imported.origin['dataset']} was published with {published:,}"
            )
