"""What scripts import while they run, and takes seconds: for a server that forks them.

Nothing here may start a thread, so that JAX gets no backend.
"""

import tensorboardX  # noqa: F401
import transformers

import memcomp.evaluation.figures  # noqa: F401
import memcomp.evaluation.report.page  # noqa: F401
from memcomp.lm import BUILTIN

transformers.AutoConfig.from_pretrained(BUILTIN)
transformers.AutoTokenizer.from_pretrained(BUILTIN)
