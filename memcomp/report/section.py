"""Sections of a report: one per protocol, since protocols are never mixed."""

import collections
import dataclasses
import functools
from collections.abc import Iterable

from memcomp.report.load import Runs
from memcomp.report.measures import UNITS, Measures
from memcomp.report.published import lm_name
from memcomp.runs.files import Record

TITLES = {
    "strict": "Protocol strict: every token from memory, decoded greedily",
    "reference": "Protocol reference: as published, teacher-forced",
    "any": "Of no protocol: compressors of files, geometry and use of memory",
}


def is_lower_bound(record: Record) -> bool:
    """Whether a text's horizon may be longer than its record of horizons.jsonl says.

    That is so if none of its targets has failed: the text is exact to its end, or the run
    was stopped.
    """
    return record["failed"] is None


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """Data that tables and figures are made from.

    Attributes:
      protocol: "strict", "reference", or "any" for records without a protocol.
      measures: measures of each group of records, ordered by key.
      runs: all runs; the section "any" uses their records without a protocol.
    """

    protocol: str
    measures: list[Measures]
    runs: Runs

    @property
    def title(self) -> str:
        """Heading of the section."""
        return TITLES.get(self.protocol, f"Protocol {self.protocol}")

    @property
    def about(self) -> str:
        """A line with protocol, LMs, recipes and hardware of its runs."""
        made = [(m.key, m.group.hardware) for m in self.measures]
        made += [(r["key"], r["hardware"]) for r in (*self.horizons, *self.growth)]
        if not made:
            return ""
        said = [f"protocol {self.protocol}"]
        said += sorted({f"{lm_name(key.lm)} ({key.revision})" for key, _ in made})
        said += sorted({f"recipe {key.recipe}" for key, _ in made})
        said += sorted({hardware for _, hardware in made})
        return "; ".join(said)

    @property
    def unit(self) -> tuple[str, float]:
        """Unit of information in figures, and the factor from nats to it."""
        return UNITS.get(self.protocol, UNITS["strict"])

    @property
    def is_reference(self) -> bool:
        """Whether the numbers may be compared with published ones."""
        return self.protocol == "reference"

    @functools.cached_property
    def sources(self) -> set[str]:
        """Sources of all runs, so that each has the same colour in all figures."""
        groups = {group.key.source for group in self.runs.groups}
        grown = (*self.runs.horizons, *self.runs.growth)
        return groups | {record["key"].source for record in grown}

    @property
    def horizons(self) -> list[dict]:
        """Records of horizons of this protocol."""
        return [r for r in self.runs.horizons if r["key"].protocol == self.protocol]

    @property
    def growth(self) -> list[dict]:
        """Lines of growth of this protocol, each text's in their order."""
        return [r for r in self.runs.growth if r["key"].protocol == self.protocol]

    def study(self, kind: str) -> dict[str, list[Record]]:
        """Records of a study by the LM's name, and by their texts if there are several."""
        found = collections.defaultdict(list)
        if self.protocol == "any" and kind in self.runs.studies:
            records = self.runs.studies[kind]
            several = len({record["texts"] for record in records}) > 1
            for record in records:
                texts = f", {record['texts']}" if several else ""
                found[lm_name(record["lm"]) + texts].append(record)
        return found

    def fewest_vectors(self) -> list[Measures]:
        """The group with the fewest vectors of each LM, recipe and source."""
        found: dict[tuple, Measures] = {}
        for m in sorted(self.measures, key=lambda m: m.key.num_memory):
            found.setdefault(m.key._replace(num_memory=0), m)
        return [found[key] for key in sorted(found)]


def sections(runs: Runs) -> list[Section]:
    """Makes a section per protocol of the runs, and one for records without a protocol."""
    measures = [Measures(group) for group in runs.groups]
    found = {m.key.protocol for m in measures}
    found |= {r["key"].protocol for r in (*runs.horizons, *runs.growth)}
    made = [
        Section(protocol, [m for m in measures if m.key.protocol == protocol], runs)
        for protocol in sorted(found, reverse=True)
    ]
    if runs.compression or runs.studies:
        made.append(Section("any", [], runs))
    return made


def by_lm(measures: Iterable[Measures]) -> dict[str, list[Measures]]:
    """Groups measures by LM, under names that distinguish LMs, recipes and dtypes."""
    measures = list(measures)
    found: dict[str, list[Measures]] = {}
    for m in measures:
        found.setdefault(lm_label(m, measures), []).append(m)
    return found


def lm_label(m: Measures, among: Iterable[Measures]) -> str:
    """Name of the LM, with the fields that differ between its runs."""
    same = [o.key for o in among if o.group.label == m.group.label]
    fields = ("revision", "dtype", "recipe")
    differ = [f for f in fields if len({getattr(key, f) for key in same}) > 1]
    return ", ".join([m.group.label, *(getattr(m.key, f) for f in differ)])
