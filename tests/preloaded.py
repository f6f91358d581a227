"""What scripts import while they run, and takes seconds: for a server that forks them.

Nothing here may start a thread, so that JAX gets no backend.
"""

import tensorboardX  # noqa: F401
import transformers

import memcomp.report.page  # noqa: F401
import memcomp.report.run_figure  # noqa: F401
from memcomp.lm.load import BUILTIN

transformers.AutoConfig.from_pretrained(BUILTIN)
transformers.AutoTokenizer.from_pretrained(BUILTIN)
