"""What scripts import while they run, and takes seconds: for a server that forks them.

Nothing here may start a thread, so that JAX gets no backend.
"""

# JAX imports the first of these with its first program, the last with its first `eigh`.
import jaxlib.mlir.dialects.mhlo  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import scipy.linalg.cython_lapack  # noqa: F401
import tensorboardX  # noqa: F401
import transformers
from ml_collections import config_flags  # noqa: F401

import memcomp.report.page  # noqa: F401
import memcomp.report.run_figure  # noqa: F401
import memcomp.runs.compressor_training  # noqa: F401
import memcomp.runs.horizons  # noqa: F401
import memcomp.runs.inputs  # noqa: F401
import memcomp.studies.use  # noqa: F401
from memcomp.convert import llama
from memcomp.lm.load import BUILTIN, abstract_params

config = transformers.AutoConfig.from_pretrained(BUILTIN)
transformers.AutoTokenizer.from_pretrained(BUILTIN)
# JAX keeps what it has traced, so that the built-in LM is loaded sooner.
abstract_params(llama.FAMILY.model(llama.FAMILY.config_from_hf(config)))
