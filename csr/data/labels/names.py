"""Names that people type, image ids and column names, and how an error message shows them."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
MAX_NAME_LENGTH = 200
MAX_PART_BYTES, MAX_PATH_BYTES = 255, 4096  # of an id: what file systems take
MOST_ROWS = 100  # of a printed table: beyond it nobody reads, and terminals forget what was above
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_GROUP_WORDS = ("patient", "subject", "person", "lesion", "study", "accession", "mrn", "participant", "empi")
_GROUPS = ("pat", "pid", "case", "exam", "examination", "series", "individual")  # as whole words
_ID_WORDS = (
    "id",
    "ids",
    "uid",
    "number",
    "no",
    "nr",
    "num",
    "name",
    "key",
    "code",
    "hash",
    "anon",
    "barcode",
)
# Cyrillic and Greek letters that look like Latin ones in print, after case folding.
_TWINS = str.maketrans(
    {
        "\u0430": "a",
        "\u0432": "b",
        "\u0433": "r",
        "\u0435": "e",
        "\u043a": "k",
        "\u043c": "m",
        "\u043d": "h",
        "\u043e": "o",
        "\u0440": "p",
        "\u0441": "c",
        "\u0442": "t",
        "\u0443": "y",
        "\u0445": "x",
        "\u0455": "s",
        "\u0456": "i",
        "\u0458": "j",
        "\u0501": "d",
        "\u04bb": "h",
        "\u051b": "q",
        "\u051d": "w",
        "\u03b1": "a",
        "\u03b2": "b",
        "\u03b5": "e",
        "\u03b7": "h",
        "\u03b9": "i",
        "\u03ba": "k",
        "\u03bc": "m",
        "\u03bd": "v",
        "\u03bf": "o",
        "\u03c1": "p",
        "\u03c4": "t",
        "\u03c5": "u",
        "\u03c7": "x",
        "\u0131": "i",
    }
)


def show(value: object, *, limit: int = 60) -> str:
    """Return a value quoted for a message: twins differ in their ASCII escapes, long ones are cut."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        text = text[:limit] + "..."
    return ascii(text)


def show_some(values: list[str], *, limit: int = 20) -> str:
    """Return up to `limit` entries joined with '; ', and the number of further ones."""
    more = len(values) - limit
    return "; ".join(values[:limit]) + (f"; and {more} more" if more > 0 else "")


def cut_rows(rows: list[str], *, rest: str) -> list[str]:
    """Return the first `MOST_ROWS` lines of a table, and one that says where the others are.

    Args:
        rows: one line for each label.
        rest: where all of them are, as `results.json`.
    """
    more = len(rows) - MOST_ROWS
    return rows if more <= 0 else [*rows[:MOST_ROWS], f".. {more} more: {rest}"]


def clean_name(raw: str) -> str:
    """Return a column or class name without invisible characters, double blanks, wide forms."""
    # One character that cannot be seen must not make a second concept: NFKC folds full-width and
    # composed forms, category C holds zero-width characters, byte order marks and controls.
    text = unicodedata.normalize("NFKC", raw)
    kept = (c for c in text if c.isspace() or not unicodedata.category(c).startswith("C"))
    return " ".join("".join(kept).split())


def name_key(name: str) -> str:
    """Return the form that all spellings of a name share: no case, one 'Other disease(s)' of VinDr-CXR."""
    key = unicodedata.normalize("NFKC", clean_name(name).casefold())
    return "other disease" if key == "other diseases" else key


def print_key(name: str) -> str:
    """Return the form that names share which look the same in print (Cyrillic a and Latin a)."""
    return name_key(name).translate(_TWINS)


def means_group(name: str) -> bool:
    """Return whether a column's name is that of a patient, a study or a lesion: `Patient ID`, `lesion_id`."""
    words = name_key(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).replace("_", " ").replace("-", " ").split()
    is_group = any(word.startswith(_GROUP_WORDS) or word in _GROUPS for word in words)
    return is_group and (len(words) == 1 or any(word in _ID_WORDS for word in words))


def are_plain(image_ids: Iterable[str]) -> list[bool]:
    """Return which ids surely have no `id_problem` and are their own `image_key`: most ids of most tables."""
    return [match is not None for match in map(_PLAIN_ID.fullmatch, image_ids)]


def image_key(image_id: str) -> str:
    """Return the form that all spellings of an image share: no known suffix, no './', one Unicode form.

    `a`, `a.png` and `./a.PNG` are one image; case matters in the stem, as in the file system.
    """
    text = posixpath.normpath(unicodedata.normalize("NFC", image_id))
    stem, suffix = posixpath.splitext(text)
    return stem if suffix.lower() in IMAGE_SUFFIXES else text


def id_problem(image_id: str) -> str | None:
    """Return why an image id may not be a file name inside the image folder, or None."""
    if not image_id:
        return "is empty"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in image_id):
        return "has invisible or control characters"
    if image_id.startswith("="):
        return "is a spreadsheet formula; save its value"
    if "\\" in image_id:
        return "has a backslash; write folders with /"
    if image_id.startswith(("/", "~")) or image_id[1:2] == ":":
        return "is an absolute path; name the file relative to the image folder"
    if ".." in image_id.split("/"):
        return "leaves the image folder with '..'"
    if len(image_id.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    longest = max(len(part.encode()) for part in image_id.split("/"))
    if longest > MAX_PART_BYTES:
        return f"has a file or folder name of {longest} bytes; file systems take {MAX_PART_BYTES}"
    if posixpath.normpath(image_id) == "." or image_id.endswith("/"):
        return "names a folder and not a file"
    return None
