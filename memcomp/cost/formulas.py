"""FLOPs of compressing or cramming a context, by formula and as the compiler counts.

Letters: s tokens of a chunk, M digests, D d_model, N heads, K kv heads, H head width,
F MLP width, L layers, R rank of adapters, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memcomp.compressors.gradmem import GradMem, GradMemConfig
from memcomp.compressors.icae import ICAE, ICAEConfig
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.pooling import PoolingConfig
from memcomp.cost.work import Memory, memory_of
from memcomp.errors import InputError
from memcomp.lm.load import abstract_params
from memcomp.lm.protocol import CausalLM
from memcomp.nn.decoder import DecoderConfig


class Flops(NamedTuple):
    """FLOPs of matrix products alone, two for a multiplication and its addition.

    Attributes:
      projections: projections to queries, keys, values and output.
      attention: queries times keys, and attention probabilities times values.
      mlp: the three matrices of the MLP.
      adapters: low-rank adapters of ICAE, which the published formula leaves out.
      unembedding: hidden states times unembedding, and the gradient of that product.
    """

    projections: int
    attention: int
    mlp: int
    adapters: int = 0
    unembedding: int = 0

    @property
    def published(self) -> int:
        """All FLOPs but those of adapters, which the published formula leaves out."""
        return sum(self) - self.adapters

    def __mul__(self, times: int) -> "Flops":  # scales, where a tuple would repeat
        return Flops(*(part * times for part in self))


def icformer_flops(cfg: ICFormerConfig, lm_config: Any, num_tokens: int) -> Flops:
    """FLOPs of IC-Former for one chunk.

    Source: Wang et al. 2024, arXiv:2406.13618, table 11, line by line; its sum leaves out
      half of the keys and values. Grouped heads are our addition.
    """
    D, F, N, K, H = cfg.sizes(lm_config)
    L, M = cfg.num_layers, cfg.num_digests
    S = num_tokens + M
    projections = 4 * M * D * N * H + 4 * S * D * K * H
    attention = 4 * M * S * N * H
    return Flops(L * projections, L * attention, L * 6 * M * D * F)


def icae_flops(cfg: ICAEConfig, lm_config: DecoderConfig, num_tokens: int) -> Flops:
    """FLOPs of ICAE for one chunk, with separate q and v kernels and a gated MLP in the LM.

    Source: Wang et al. 2024, arXiv:2406.13618, table 10; the adapters are our addition.
    """
    D, F, L = lm_config.d_model, lm_config.d_mlp, lm_config.num_layers
    N, K, H = lm_config.heads
    S = num_tokens + cfg.num_digests
    return Flops(
        projections=L * 4 * S * D * (N + K) * H,
        attention=L * 4 * S * S * N * H,
        mlp=L * 6 * S * D * F,
        adapters=L * 2 * S * cfg.rank * (2 * D + (N + K) * H),
    )


def cram_step_flops(
    lm_module: CausalLM, num_tokens: int, num_memory: int, *, loss_gradient: bool = True
) -> Flops:
    """FLOPs of one step of cramming one text: forward, and back to the memory alone.

    They are the matrix products of the layers, of attention with all its keys, and of the
    unembedding. The recurrence and the convolution of Mamba are left out. No gradient of a
    weight is taken, so that the way back costs as much as the way forward; attention's
    products have two factors that depend on the memory, and cost twice as much there.

    Args:
      lm_module: Flax module of the LM.
      num_tokens: number of tokens of the text (T).
      num_memory: number of memory vectors (M).
      loss_gradient: whether the cross-entropy is differentiated; where only margins are,
        the unembedding has no way back (`memcomp.nn.cross_entropy`).
    """
    cfg, S = lm_module.config, num_tokens + num_memory - 1  # the last token is not read
    layers = nn.unbox(abstract_params(lm_module))["layers"]
    of_kernels = {
        jax.tree_util.keystr(path): 2 * 2 * S * leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(layers)
        if "kernel" in jax.tree_util.keystr(path[-1:])
    }
    projections = sum(n for path, n in of_kernels.items() if "attn" in path)
    attention = 0
    if isinstance(cfg, DecoderConfig):
        attention = 3 * cfg.num_layers * 4 * S * S * cfg.num_heads * cfg.head_dim
    ways = 2 if loss_gradient else 1
    return Flops(
        projections=projections,
        attention=attention,
        mlp=sum(of_kernels.values()) - projections,
        unembedding=ways * 2 * num_tokens * cfg.vocab_size * cfg.d_model,
    )


def gradmem_flops(cfg: GradMemConfig, lm_module: CausalLM, num_tokens: int) -> Flops:
    """FLOPs of GradMem for one chunk, without a projection: its steps are of cramming."""
    return cram_step_flops(lm_module, num_tokens, cfg.num_digests) * cfg.num_steps


def pooling_flops(cfg: PoolingConfig, lm_config: Any, num_tokens: int) -> Flops:
    """FLOPs of mean pooling for one chunk: its means, and its linear map."""
    D = lm_config.d_model
    return Flops(projections=2 * cfg.num_digests * D * (num_tokens + D), attention=0, mlp=0)


def compress_flops(compressor: Any, num_tokens: int) -> Flops:
    """FLOPs of any compressor for one chunk, by its formula."""
    cfg, lm_module = compressor.config, compressor.lm_module
    if isinstance(compressor, GradMem):
        return gradmem_flops(cfg, lm_module, num_tokens)
    of = {ICFormer: icformer_flops, ICAE: icae_flops}.get(type(compressor), pooling_flops)
    return of(cfg, lm_module.config, num_tokens)


def compiled_flops(compressor: Any, num_tokens: int, *, num_chunks: int = 1) -> float:
    """Compiler's count of all operations of `compressor.digest`; no parameters are made.

    The LM's layers are unrolled, because the compiler counts the body of a loop only once.

    Args:
      compressor: an `ICFormer`, an `ICAE` or a `GradMem`.
      num_tokens: number of tokens of each chunk.
      num_chunks: number of chunks in the batch (B).

    Raises:
      InputError: the LM's layers cannot be unrolled.
    """
    lm_module = compressor.lm_module
    if not isinstance(lm_module.config, DecoderConfig):
        raise InputError(
            f"the layers of {type(lm_module).__name__} cannot be unrolled to be counted; "
            "give an LM with attention"
        )
    compressor = dataclasses.replace(compressor, lm_module=lm_module.clone(unroll=True))
    made = _compiled(compressor, num_tokens, num_chunks, jnp.float32)
    return made.cost_analysis()["flops"]


def compiled_memory(
    compressor: Any, num_tokens: int, *, num_chunks: int = 1, dtype: Any = jnp.float32
) -> Memory:
    """Compiler's memory plan of `compressor.digest` with all parameters in one dtype."""
    return memory_of(_compiled(compressor, num_tokens, num_chunks, dtype))


def _compiled(compressor, num_tokens, num_chunks, dtype) -> Any:
    params = shapes_of(jax.eval_shape(compressor.init, jax.random.key(0)), dtype)
    lm_params = shapes_of(abstract_params(compressor.lm_module), dtype)
    tokens = jax.ShapeDtypeStruct((num_chunks, num_tokens), jnp.int32)
    lengths = jax.ShapeDtypeStruct((num_chunks,), jnp.int32)
    return jax.jit(compressor.digest).lower(params, lm_params, tokens, lengths).compile()


def shapes_of(tree: Any, dtype: Any) -> Any:
    """Shapes of boxed or abstract parameters, all in one dtype."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), nn.unbox(tree))
