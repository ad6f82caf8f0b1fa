"""Instructions that the compiler repeats, in texts of known content."""

import jax
import jax.numpy as jnp

from ddit_jax.planning.compiler_remat import CompilerRemat, compiler_remat
from ddit_jax.planning.hlo import HloText

TEXT = """HloModule jit_step, is_scheduled=true

%product.remat (p.1: bf16[8,8], p.2: bf16[8,8]) -> bf16[8,8] {
  %p.1 = bf16[8,8]{1,0} parameter(0)
  %p.2 = bf16[8,8]{1,0} parameter(1)
  ROOT %convolution.5 = bf16[8,8]{1,0} convolution(%p.1, %p.2)
}

%tanh (p.3: bf16[8,8]) -> bf16[8,8] {
  %p.3 = bf16[8,8]{1,0} parameter(0)
  ROOT %tanh.1 = bf16[8,8]{1,0} tanh(%p.3)
}

%body (p.4: bf16[8,8]) -> bf16[8,8] {
  %p.4 = bf16[8,8]{1,0} parameter(0)
  ROOT %fusion.7.remat = bf16[8,8] fusion(%p.4, %p.4), calls=%product.remat
}

ENTRY %main (a: bf16[8,8], b: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  %fusion.3 = bf16[8,8] fusion(%a, %b), calls=%product.remat
  %tanh.remat2 = bf16[8,8] fusion(%fusion.3), calls=%tanh
  %while.1 = bf16[8,8] while(%tanh.remat2), condition=%unknown, body=%body, \
backend_config={"known_trip_count":{"n":"24"}}
  ROOT %dot.9.remat3 = bf16[8,8]{1,0} dot(%while.1, %tanh.remat2)
}
"""


def test_products_are_told_from_cheap_instructions():
  found = compiler_remat(HloText.parse(TEXT))
  # tanh once, the fusion 24 times, the last product once.
  assert found == CompilerRemat(
    runs=26, product_runs=25, sources=("fusion.7.remat", "dot.9.remat3")
  )


def test_rematerialisation_that_the_program_asks_for_does_not_count():
  @jax.checkpoint
  def layer(x):
    return jnp.sin(x @ x)

  program = jax.jit(jax.grad(lambda x: layer(layer(x)).sum()))
  text = program.lower(jnp.ones((8, 8))).compile().as_text()
  found = compiler_remat(HloText.parse(text))
  assert found == CompilerRemat(runs=0, product_runs=0, sources=())
