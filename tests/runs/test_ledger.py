"""Records of a run by `seed_id`; those of an older version are refused."""

import pytest
from etils import epath

from memcomp.errors import InputError
from memcomp.runs.files import append_records
from memcomp.runs.ledger import Ledger


def test_records_without_a_seed_id_are_refused(tmp_path):
    path = epath.Path(tmp_path) / "results.jsonl"
    append_records(path, [{"text_id": 800_001}])
    with pytest.raises(InputError, match="without 'seed_id'.* give another workdir"):
        Ledger(path)
