"""Work read from optimised HLO: against XLA's own counts, and against counts by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from selection import first_here
from tiny_lm import TINY

from memcomp.cost.formulas import cram_step_flops
from memcomp.cost.work import Program, memory_of
from memcomp.cram.config import CramConfig
from memcomp.cram.loop import lower_cram_chunk
from memcomp.cram.recipe import RECIPES
from memcomp.cram.state import init_states
from memcomp.cram.ways.table import memory_scores
from memcomp.lm.load import abstract_params
from memcomp.models.llama import Llama
from memcomp.sharding import batch_sharding, make_mesh, param_shardings

ROWS, COLUMNS, LAYERS = 64, 32, 5


def compiled(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile()


def work(program):
    return Program(program.as_text()).work()


def layers(x, kernels, unroll=1):
    step = lambda x, kernel: (jnp.tanh(x @ kernel), None)  # noqa: E731
    return jax.lax.scan(step, x, kernels, unroll=unroll)[0]


def test_products_without_a_loop_are_those_that_xla_counts():
    function = functools.partial(layers, unroll=LAYERS)
    program = compiled(function, (ROWS, COLUMNS), (LAYERS, COLUMNS, COLUMNS))
    found = work(program)
    assert found.flops == 2 * LAYERS * ROWS * COLUMNS**2
    # XLA counts the additions of tanh's arguments too: measured equal.
    assert program.cost_analysis()["flops"] == pytest.approx(found.flops, rel=0.01)


def test_products_in_a_loop_count_as_often_as_it_runs():
    program = compiled(layers, (ROWS, COLUMNS), (LAYERS, COLUMNS, COLUMNS))
    found = work(program)
    assert (found.flops, found.unknown_loops) == (2 * LAYERS * ROWS * COLUMNS**2, 0)
    assert program.cost_analysis()["flops"] < found.flops / 2  # which is why


def test_a_loop_in_a_loop():
    def twice(x, kernels):
        return jax.lax.scan(lambda x, _: (layers(x, kernels), None), x, length=3)[0]

    found = work(compiled(twice, (ROWS, COLUMNS), (LAYERS, COLUMNS, COLUMNS)))
    assert found.flops == 3 * 2 * LAYERS * ROWS * COLUMNS**2


def test_a_loop_of_unknown_length_is_said():
    def until(x):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: jnp.sin(x @ x), x)

    found = work(compiled(until, (COLUMNS, COLUMNS)))
    assert (found.flops, found.unknown_loops) == (2 * COLUMNS**3, 1)


def test_bytes_are_about_those_that_xla_counts():
    program = compiled(
        functools.partial(layers, unroll=LAYERS),
        (ROWS, COLUMNS),
        (LAYERS, COLUMNS, COLUMNS),
    )
    want = program.cost_analysis()["bytes accessed"]
    assert work(program).num_bytes == pytest.approx(want, rel=0.2)


N = 8
PARTS = {
    # What each device has, what is done with it, and bytes of the larger of both sides.
    "all-reduce": ((1024,), lambda x: jax.lax.psum(x, "data"), 4096),
    "all-gather": ((16, 4), lambda x: jax.lax.all_gather(x, "data"), N * 256),
    "reduce-scatter": ((N, 8), lambda x: jax.lax.psum_scatter(x, "data"), N * 32),
    "all-to-all": ((N, 8), lambda x: jax.lax.all_to_all(x, "data", 0, 0), N * 32),
    "collective-permute": (
        (32,),
        lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % N) for i in range(N)]),
        128,
    ),
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("times", first_here([5, 1]))
def test_collectives_by_kind_and_bytes(kind, times):
    shape, communicate, size = PARTS[kind]
    mesh = make_mesh(data=N)

    def body(x):
        def step(total, _):
            return total + communicate(jnp.sin(x + total)).sum(), None

        return jax.lax.scan(step, 0.0, length=times)[0][None]

    spread = PartitionSpec("data")
    function = jax.shard_map(
        body, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False
    )
    shape = (N * shape[0], *shape[1:])
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spread))
    found = work(jax.jit(function).lower(x).compile()).collectives
    assert found.keys() == {kind}
    assert found[kind] == (times, times * size, size)


# A product with two batch axes as a TPU has it, and beside it what is read: a slice of what
# is stacked, nothing of what is in VMEM.
TPU = """
%fused (param_0: f32[12,80,64], param_1: s32[]) -> f32[80,64] {
  %param_0 = f32[12,80,64]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,80,64]{2,1,0:T(8,128)} dynamic-slice(%param_0, %param_1, %zero, %zero), \
dynamic_slice_sizes={1,80,64}
  ROOT %view = f32[80,64]{1,0:T(8,128)} bitcast(%slice)
}

ENTRY %main (a: f32[8,80,12,64], b: f32[8,80,12,64], c: f32[12,80,64], i: s32[]) -> f32[] {
  %a = f32[8,80,12,64]{3,1,2,0:T(8,128)} parameter(0)
  %b = f32[8,80,12,64]{3,1,2,0:T(8,128)S(1)} parameter(1)
  %c = f32[12,80,64]{2,1,0:T(8,128)} parameter(2)
  %i = s32[]{:T(128)} parameter(3)
  %near = f32[80,64]{1,0:T(8,128)S(1)} fusion(%c, %i), kind=kLoop, calls=%fused
  ROOT %product = f32[8,12,80,80]{3,2,1,0:T(8,128)} convolution(%a, %b), \
window={size=8x12 stride=7x11 lhs_dilate=8x12}, dim_labels=0b1f_0o1i->01bf, \
metadata={op_name="jit(cram)/while/body/layers/attn/attend/dot_general"}
}
"""


def test_a_product_that_is_a_convolution_and_what_is_not_read():
    program = Program(TPU)
    found = program.work()
    assert found.flops == 2 * 8 * 12 * 80 * 80 * 64
    index, scores = 4, 8 * 12 * 80 * 80
    assert found.num_bytes == 4 * (80 * 64 + 8 * 80 * 12 * 64 + scores) + index
    (largest,) = program.largest(3)
    assert largest == (4 * scores, "f32[8,12,80,80]", "layers/attn/attend/dot_general")


# Parts of a weight are multiplied two at a time while the next ones come: 4 turns by 2.
IN_STEPS = """
%body (p: (u32[], f32[8,8])) -> (u32[], f32[8,8]) {
  %p = (u32[], f32[8,8]{1,0}) parameter(0)
  %step = u32[] constant(STEP)
  %i = u32[] get-tuple-element(%p), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%p), index=1
  %next = u32[] add(%i, %step)
  %y = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %out = (u32[], f32[8,8]{1,0}) tuple(%next, %y)
}

%condition (q: (u32[], f32[8,8])) -> pred[] {
  %q = (u32[], f32[8,8]{1,0}) parameter(0)
  %j = u32[] get-tuple-element(%q), index=0
  %limit = u32[] constant(8)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (z: f32[8,8]) -> (u32[], f32[8,8]) {
  %z = f32[8,8]{1,0} parameter(0)
  %first = u32[] constant(FIRST)
  %given = (u32[], f32[8,8]{1,0}) tuple(%first, %z)
  ROOT %loop = (u32[], f32[8,8]{1,0}) while(%given), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize("first, step, turns", [(0, 1, 8), (0, 2, 4), (1, 2, 4), (2, 3, 2)])
def test_a_loop_in_steps_of_its_own(first, step, turns):
    text = IN_STEPS.replace("FIRST", str(first)).replace("STEP", str(step))
    found = Program(text).work()
    assert (found.flops, found.unknown_loops) == (turns * 2 * 8**3, 0)


CFG = CramConfig(num_tokens=16, batch_size=8, steps_per_chunk=3, vocab_chunk=10)


@functools.cache
def cram_program(**mesh):
    """`cram_chunk` of a random LM for some of the fake devices; nothing runs."""
    devices = jax.devices()[: mesh.get("data", 1) * mesh.get("fsdp", 1)]
    mesh, module = make_mesh(**mesh, devices=devices), Llama(TINY)
    boxed = abstract_params(module)
    params = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        nn.unbox(boxed),
        param_shardings(boxed, mesh),
    )
    ids = jax.ShapeDtypeStruct((CFG.batch_size,), jnp.int32)
    init = functools.partial(init_states, module=module, cfg=CFG)
    tokens = jax.ShapeDtypeStruct((CFG.batch_size, CFG.num_tokens), jnp.int32)
    states, tokens, lengths = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)),
        (jax.eval_shape(init, ids, params), tokens, ids),
    )
    with jax.set_mesh(mesh):
        lowered = lower_cram_chunk(states, tokens, lengths, params, module=module, cfg=CFG)
    return lowered.compile()


SLOW = pytest.mark.slow


CUTS = [
    *(pytest.param(n, marks=SLOW) for n in (2, 4)),
    pytest.param(8, marks=pytest.mark.ci),
]


@pytest.mark.parametrize("n", CUTS)
def test_texts_over_data_cut_the_work_in_equal_parts(n):
    one, part = work(cram_program(data=1)), work(cram_program(data=n))
    assert part.flops == pytest.approx(one.flops / n, rel=0.02)  # measured: equal
    # Weights are whole everywhere: nothing is sent, be it small.
    assert part.collectives == {}


def test_products_of_cramming_are_4_x_parameters_x_tokens():
    kernels = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            nn.unbox(abstract_params(Llama(TINY)))
        )
        if "kernel" in jax.tree_util.keystr(path) or "head" in jax.tree_util.keystr(path)
    )
    tokens = CFG.batch_size * CFG.steps_per_chunk * CFG.num_tokens
    # And attention's own: 12 x layers x tokens x heads x width.
    scores = 12 * TINY.num_layers * CFG.num_tokens * TINY.num_heads * TINY.head_dim
    # And GGT's, which only in an LM as small as this one is to be seen.
    W, P = RECIPES["default"].window, CFG.num_memory * TINY.d_model
    steps = CFG.batch_size * CFG.steps_per_chunk * (2 * W * P * (W + 1) + 4 * W * W)
    assert work(cram_program(data=1)).flops == pytest.approx(
        tokens * (4 * kernels + scores) + steps, rel=0.05
    )


@pytest.mark.parametrize("num_tokens, num_memory", first_here([(5, 4), (16, 1)]))
@pytest.mark.parametrize("score", first_here(["loss", "margin"]))
def test_the_formula_of_a_step_of_cramming_is_what_the_compiler_counts(
    num_tokens, num_memory, score
):
    config = dataclasses.replace(TINY, vocab_size=32, d_mlp=64)
    module = Llama(config)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nn.unbox(abstract_params(module))
    )

    def loss(memory, tokens, params):
        options = {"vocab_chunk": 32, "loss_gradient": score == "loss"}
        found = memory_scores(memory, tokens, params, module=module, **options)
        return getattr(found, score).sum()

    memory = jax.ShapeDtypeStruct((num_memory, config.d_model), jnp.float32)
    tokens = jax.ShapeDtypeStruct((num_tokens,), jnp.int32)
    program = jax.jit(jax.value_and_grad(loss)).lower(memory, tokens, shapes).compile()
    found = work(program)
    assert found.unknown_loops == 0
    # Measured equal.
    sizes = num_tokens, num_memory
    want = cram_step_flops(module, *sizes, loss_gradient=score == "loss")
    assert found.flops == sum(want)


@pytest.mark.ci
def test_weights_that_are_cut_are_gathered_and_texts_stay():
    whole, cut = cram_program(data=8), cram_program(fsdp=8)
    weights = max(
        leaf.size for leaf in jax.tree.leaves(nn.unbox(abstract_params(Llama(TINY))))
    )
    found = work(cut)
    assert found.collectives["all-gather"].largest <= 4 * weights
    assert work(whole).flops == pytest.approx(found.flops, rel=0.02)
    # Measured equal; where texts are gathered, and not weights, 6 times as much.
    assert memory_of(cut).temporary < 2 * memory_of(whole).temporary


def test_memory_is_that_of_the_arrays():
    program = compiled(lambda x, y: x @ y, (ROWS, COLUMNS), (COLUMNS, 16))
    memory = memory_of(program)
    assert memory.arguments == 4 * (ROWS * COLUMNS + COLUMNS * 16)
    assert (memory.results, memory.aliased) == (4 * ROWS * 16, 0)
    assert memory.total == memory.arguments + memory.temporary + memory.results
