"""What is wrong with a message, a consumer or a file, and how a verb says it."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from msgspec import Struct, to_builtins


class Problem(Struct, frozen=True):
    """A rule that does not hold, and where: a JSON pointer, or the name of a property."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.where or '/'}: {self.message}"


class Report(Struct, frozen=True):
    """The verdict on one thing."""

    name: str
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.problems


def tell(reports: Iterable[Report], *, as_json: bool = False, junit: Path | None = None) -> int:
    """Print every verdict; 0 when all hold, 1 when one does not, 2 when there is none."""
    told = list(reports)
    if junit is not None:
        junit.write_bytes(_junit(told))
    if as_json:
        found = [{**to_builtins(report), "holds": report.holds} for report in told]
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for report in told:
            sys.stdout.write(f"{'ok  ' if report.holds else 'FAIL'} {report.name}\n")
            for problem in report.problems:
                sys.stdout.write(f"     {problem}\n")
            for note in report.notes:
                sys.stdout.write(f"     note: {note}\n")
    if not told:
        sys.stderr.write("nothing to check\n")
        return 2
    return 0 if all(report.holds for report in told) else 1


def _junit(reports: Sequence[Report]) -> bytes:
    failed = sum(not report.holds for report in reports)
    suite = Element(
        "testsuite", name="contracts", tests=str(len(reports)), failures=str(failed), errors="0"
    )
    for report in reports:
        case = SubElement(suite, "testcase", classname="contracts", name=report.name)
        if not report.holds:
            said = "\n".join(map(str, report.problems))
            SubElement(case, "failure", message=str(report.problems[0])).text = said
    text: bytes = tostring(suite, encoding="utf-8", xml_declaration=True)
    return text
