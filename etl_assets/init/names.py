"""What the star calls columns, and what the names of tables and columns tell: singulars, keys, lines of a header."""

import re
from collections.abc import Iterable, Sequence

from etl_assets.init.declaring import snake, unique

RESERVED = {"deleted", "batch"}  # columns that the platform adds
_LINE = re.compile(r"((line|item|detail|row|position|pos|entry|entrie|part)s?(en)?_?)+$")
# What counts the lines of a header, beside it in their key: line, order_line_no, l_linenumber, seq, but no ticket_number.
_COUNTS = re.compile(
    r"((.*_)?(line|item|row|position)_?(no|nr|number|num|id)?|([a-z]{1,3}_)?(pos|seq|sequence|no|nr|number|num|idx|index))"
)
_SINGULAR = {"people": "person", "children": "child"}  # what no rule says
LINKS = re.compile(r"(?i)(_?(id|key|code|no|nr|fk|ref))$")
_LONGEST = 60  # bytes of a star column's name: PostgreSQL takes 63


def star_columns(names: Sequence[str], reserved: Iterable[str]) -> dict[str, str]:
    """What the star calls columns: as the source does, in lower case, where that is a name and nobody else's."""
    found: dict[str, str] = {}
    taken = set(reserved)
    for name in sorted(names, key=lambda one: not is_plain(one)):
        wanted = snake(name) if name != name.lower() else name
        if not is_plain(wanted):
            wanted = re.sub(r"\W+", "_", wanted).strip("_")
            wanted = wanted if wanted and not wanted[0].isdigit() else f"column_{wanted}".rstrip("_")
        if wanted.lower() in RESERVED or wanted in reserved:
            wanted = f"source_{wanted}"
        found[name] = unique(shortened(wanted), taken)
        taken.add(found[name])
    return found


def is_plain(name: str) -> bool:
    """Whether a name can be written as it is, in Python and in SQL, and in lower case."""
    return bool(re.fullmatch(r"[^\W\d_]\w*", name)) and name == name.lower()


def shortened(name: str) -> str:
    """A name that leaves room for what is added to it."""
    return name.encode()[:_LONGEST].decode(errors="ignore").rstrip("_")


def stem_of(column: str) -> str:
    """`customer` of `customer_id`."""
    return LINKS.sub("", snake(column)).strip("_")


def day_of(moment: str) -> str:
    """What the day of an instant is called: `created_date` of created_at, `order_day` of order_date."""
    if re.search("(?<!up)date$", moment):
        return f"{moment.removesuffix('date')}day"
    return re.sub(r"_(at|ts|time|timestamp|datetime|on)$", "", moment) + "_date"


def singulars(table: str) -> set[str]:
    """A table's name, and what it may be in the singular."""
    forms = {table}
    last = table.rpartition("_")[2]
    if last in _SINGULAR:
        forms.add(table.removesuffix(last) + _SINGULAR[last])
    if table.endswith("ies"):
        forms.add(f"{table[:-3]}y")
    if table.endswith("es"):
        forms.add(table[:-2])
    if table.endswith("s"):
        forms.add(table[:-1])
    return forms


def is_named_after(lines: str, header: str) -> bool:
    """Whether lines are called after their header: order_line, orderdetails of orders; order_detail of order_header."""
    stems = {form for name in (header, header.removesuffix("_header")) for form in singulars(name)}
    return any(lines.startswith(stem) and _LINE.fullmatch(lines[len(stem) :].strip("_")) for stem in stems)


def without_prefix(columns: Sequence[str]) -> list[str]:
    """Names of columns in lower case, without what all of them begin with, as in c_custkey, c_name, c_phone."""
    names = [snake(name) for name in columns]
    prefixes = {name.partition("_")[0] for name in names if "_" in name}
    is_shared = len(names) > 1 and len(prefixes) == 1 and all("_" in name for name in names)
    return [name.partition("_")[2] for name in names] if is_shared else names


def counts_lines(column: str) -> bool:
    """Whether a column numbers the lines of a header."""
    return bool(_COUNTS.fullmatch(snake(column)))


def bare(declared: str) -> str:
    """A declared type without the mark that it may be NULL."""
    return declared.removesuffix("?")


def nullable(declared: str) -> str:
    """A declared type that may be NULL."""
    return f"{bare(declared)}?"


def several(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c; of many the first."""
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "nothing"
