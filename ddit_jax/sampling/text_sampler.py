"""Image to text: fills in masked tokens around a prompt (section 3.4).

Captioning has no prompt, question answering has the question, and
fill-in-the-blank has any pattern of given tokens. Every order of revealing them
is a planner of `text_planners`; this is the loop around it. Rows do not wait
for each other: each has its own step, and the network does not see the time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ddit_jax.diffusion.masked_diffusion import log_probabilities
from ddit_jax.prng import key_for
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sampling.text_planners import (
  REMASK,
  TAKE,
  Beliefs,
  RowView,
  beliefs_of,
)
from ddit_jax.sharding.rules import repeated_rows

# (tokens [states, length]) -> logits [states, length, vocab]. Where not every
# call reads the image, it also takes `keeps_image=True` and gives (logits, what
# the next calls take as `image_keys`).
_Predict = Callable[..., Any]


class Texts(NamedTuple):
  """Filled-in texts, by row.

  Attributes:
    tokens: [batch, length].
    probabilities: [batch, length], of each token when it was taken; 1 for given
      ones and behind the end.
    calls: [batch], network calls that a row took part in.
    trace: tokens after each step [batch, steps, length], the last of them
      repeated; None if not asked for.
    trace_probabilities: of the tokens in `trace`; masks have 0.
  """

  tokens: Any
  probabilities: Any
  calls: Any
  trace: Any = None
  trace_probabilities: Any = None


class PartialTexts(NamedTuple):
  """Texts on their way, by row; the parts have one more axis, the batch.

  Attributes:
    is_free: [length], False where a token is given.
    tokens: [length].
    probabilities: [length], see `Texts`.
    drafts: [states, length], what the next call looks at; the first is
      `tokens`.
    plan: the planner's.
    steps: taken so far.
    calls: network calls so far.
    is_done: whether the text is finished.
    trace: `tokens` and `probabilities` after each step; () if not kept.
  """

  is_free: Any
  tokens: Any
  probabilities: Any
  drafts: Any
  plan: Any
  steps: Any
  calls: Any
  is_done: Any
  trace: Any


class TextSampler(NamedTuple):
  """The sampler of one vocabulary.

  Attributes:
    sampling: the settings.
    mask_id: the token id that stands for a masked token.
    end_id: the end token; None lets no text end early.
  """

  sampling: TextSampling
  mask_id: int
  end_id: int | None = None

  def start(
    self,
    tokens: Int[Array, "batch length"],
    prompt_mask: Bool[Array, "batch length"],
    keys: Key[Array, " batch"],
    *,
    keeps_trace: bool,
  ) -> PartialTexts:
    """Masks all outside the prompt; for the arguments see `infill`."""

    def start_row(tokens, prompt_mask, key):
      length = tokens.shape[0]
      planner = self.sampling.planner
      plan = planner.start(~prompt_mask, key_for(key, "order"))
      tokens = jnp.where(prompt_mask, tokens, self.mask_id)
      probabilities = prompt_mask.astype(jnp.float32)
      num_kept = planner.max_steps(length)
      kept = tokens, probabilities
      row = PartialTexts(
        is_free=~prompt_mask,
        tokens=tokens,
        probabilities=probabilities,
        drafts=_stacked(tokens, self.sampling.num_drafts),
        plan=plan,
        steps=jnp.zeros((), jnp.int32),
        calls=jnp.zeros((), jnp.int32),
        is_done=jnp.zeros((), bool),
        trace=tuple(_stacked(x, num_kept) for x in kept if keeps_trace),
      )
      return row._replace(is_done=self._is_done(row))

    return jax.vmap(start_row)(tokens, prompt_mask, keys)

  def advance(
    self,
    predict: _Predict,
    progress: PartialTexts,
    keys: Key[Array, " batch"],
    *,
    num_left: int | Int[Array, ""] = 0,
  ) -> PartialTexts:
    """Calls the network until at most `num_left` rows are not finished.

    Args:
      predict: see `infill`.
      progress: from `start` or an earlier call.
      keys: as for `start`.
      num_left: rows that may be left.
    """

    def is_running(progress):
      return (~progress.is_done).sum() > num_left

    def call(progress):
      return self.call(predict, progress, keys)

    return jax.lax.while_loop(is_running, call, progress)

  def call(
    self, predict: _Predict, progress: PartialTexts, keys: Key[Array, " batch"]
  ) -> PartialTexts:
    """Calls the network once, or until it is to read the image again.

    Arguments as in `advance`.
    """

    def called(progress, **options):
      batch, states, length = progress.drafts.shape
      found = predict(
        progress.drafts.reshape(batch * states, length), **options
      )
      logits, kept = found if options.get("keeps_image") else (found, None)
      log_p = log_probabilities(logits, self.mask_id)
      log_p = log_p.reshape(batch, states, length, -1)
      return jax.vmap(self._settle)(progress, keys, log_p), kept

    interval = self.sampling.image_refresh_interval
    if interval == 1:
      return called(progress)[0]
    progress, image_keys = called(progress, keeps_image=True)

    def is_running(counted):
      count, progress = counted
      return (count < interval) & ~progress.is_done.all()

    def again(counted):
      count, progress = counted
      return count + 1, called(progress, image_keys=image_keys)[0]

    return jax.lax.while_loop(is_running, again, (1, progress))[1]

  def finish(self, progress: PartialTexts) -> Texts:
    """The results of rows that are done."""

    def filled(kept, last, steps):
      index = jnp.arange(kept.shape[1])[None, :, None]
      return jnp.where(index < steps[:, None, None], kept, last[:, None])

    last = progress.tokens, progress.probabilities
    traces = [
      filled(kept, x, progress.steps)
      for kept, x in zip(progress.trace, last, strict=False)
    ]
    return Texts(*last, progress.calls, *traces)

  def _settle(
    self,
    row: PartialTexts,
    key: Key[Array, ""],
    log_p: Float[Array, "states length vocab"],
  ) -> PartialTexts:
    """Takes the steps that the network's view of the drafts allows.

    A draft's predictions are used only if the steps before led to it, so the
    text is that of one state a call.
    """
    noise = self._noise(row, key, log_p.shape[1:])
    draw = functools.partial(
      beliefs_of,
      noise=noise,
      temperature=self.sampling.temperature,
      top_p=self.sampling.top_p,
    )
    beliefs = jax.vmap(draw)(log_p)

    def verify(carry, seen):
      row, is_valid, last = carry
      draft, belief = seen
      is_valid &= (draft == row.tokens).all() & ~row.is_done
      row = _where(is_valid, self._step(row, belief, key), row)
      return (row, is_valid, _where(is_valid, belief, last)), None

    def draft(row, _):
      row = _where(row.is_done, row, self._step(row, last, key))
      return row, row.tokens

    row = row._replace(calls=row.calls + ~row.is_done)
    first = jax.tree.map(lambda x: x[0], beliefs)
    (row, _, last), _ = jax.lax.scan(
      verify, (row, jnp.ones((), bool), first), (row.drafts, beliefs)
    )
    num_more = self.sampling.num_drafts - 1
    _, more = jax.lax.scan(draft, row._replace(trace=()), length=num_more)
    return row._replace(drafts=jnp.concatenate([row.tokens[None], more]))

  def _noise(self, row: PartialTexts, key: Key[Array, ""], shape):
    """Gumbel noise of the row's present step; None if the best is taken."""
    if self.sampling.temperature == 0:
      return None
    index = 0 if self.sampling.has_fixed_noise else row.steps
    # Float32, as coarser noise lowers the temperature silently.
    key = jax.random.fold_in(key, index)
    return jax.random.gumbel(key, shape, jnp.float32)

  def _step(
    self, row: PartialTexts, beliefs: Beliefs, key: Key[Array, ""]
  ) -> PartialTexts:
    """One routing of every position."""
    key = key_for(key, "routing", row.steps)
    view = self._view(row)
    route, plan = self.sampling.planner.route(row.plan, beliefs, view, key)
    is_taken, is_masked = route == TAKE, route == REMASK
    tokens = jnp.where(is_taken, beliefs.token, row.tokens)
    probabilities = jnp.where(
      is_taken, jnp.exp(beliefs.log_p), row.probabilities
    )
    tokens = jnp.where(is_masked, self.mask_id, tokens)
    probabilities = jnp.where(is_masked, 0, probabilities)
    tokens = tokens.astype(row.tokens.dtype)
    row = row._replace(tokens=tokens, probabilities=probabilities, plan=plan)
    row = self._ended(row)
    kept = zip(row.trace, (row.tokens, row.probabilities), strict=False)
    return row._replace(
      steps=row.steps + 1,
      is_done=self._is_done(row),
      trace=tuple(states.at[row.steps].set(now) for states, now in kept),
    )

  def _view(self, row: PartialTexts) -> RowView:
    is_masked = row.tokens == self.mask_id
    block = self.sampling.block_length
    if not block:
      return RowView(row.is_free, is_masked, is_masked)
    number = (jnp.cumsum(row.is_free) - 1) // block
    first = jnp.where(is_masked, number, number.max()).min()
    return RowView(row.is_free, is_masked, is_masked & (number == first))

  def _ended(self, row: PartialTexts) -> PartialTexts:
    """Fills what is behind the end token, if all before it is known."""
    planner = self.sampling.planner
    stops = self.sampling.stops_at_end and planner.keeps_tokens
    if self.end_id is None or not stops:
      return row
    is_end = row.is_free & (row.tokens == self.end_id)
    is_known = jnp.cumprod(row.tokens != self.mask_id).astype(bool)
    given = jnp.where(row.is_free, -1, jnp.arange(row.tokens.shape[0]))
    is_last = jnp.arange(row.tokens.shape[0]) > given.max()
    has_ended = jnp.cumsum(is_end & is_known & is_last) > 0
    is_padding = has_ended & (row.tokens == self.mask_id)
    return row._replace(
      tokens=jnp.where(is_padding, self.end_id, row.tokens),
      probabilities=jnp.where(is_padding, 1.0, row.probabilities),
    )

  def _is_done(self, row: PartialTexts) -> Bool[Array, ""]:
    is_masked = row.tokens == self.mask_id
    return self.sampling.planner.is_done(row.plan, is_masked)


def infill(
  predict: _Predict,
  tokens: Int[Array, "batch length"],
  prompt_mask: Bool[Array, "batch length"],
  keys: Key[Array, " batch"],
  *,
  mask_id: int,
  sampling: TextSampling,
  end_id: int | None = None,
  keeps_trace: bool = False,
) -> Texts:
  """Samples every token outside the prompt; prompt tokens never change.

  Args:
    predict: see `_Predict`, with the clean images at sigma 0 bound. With
      `num_drafts` states a call, row i of the batch has the rows i * num_drafts
      and following.
    tokens: ids; only those of the prompt are read.
    prompt_mask: True where the token is given.
    keys: randomness of each row's draws, see `prng.row_keys`.
    mask_id: the token id that stands for a masked token.
    sampling: order, steps and temperature.
    end_id: the end token; None lets no text end early.
    keeps_trace: whether to return the tokens after each step.
  """
  sampler = TextSampler(sampling, mask_id, end_id)
  rows = sampler.start(tokens, prompt_mask, keys, keeps_trace=keeps_trace)
  return sampler.finish(sampler.advance(predict, rows, keys))


def text_predictor(
  model,
  variables,
  latents: Float[Array, "batch height width channels"] | None,
  sampling: TextSampling,
  has_image: Bool[Array, " batch"] | None = None,
) -> _Predict:
  """Logits of texts about images, guided by them; see `generate_tokens`."""
  is_guided = sampling.guidance_scale != 1 and latents is not None

  def predict(states, keeps_image=False, image_keys=None):
    rows = states.shape[0]
    condition = model.condition(variables, states)
    num_copies, images, given = 1, latents, has_image
    if latents is not None:
      num_copies = rows // latents.shape[0]
      images = repeated_rows(latents, num_copies)
      given = None if given is None else repeated_rows(given, num_copies)
    if is_guided:
      sees = jnp.ones(rows, bool) if given is None else given
      given = jnp.stack([sees, jnp.zeros_like(sees)], axis=1).reshape(-1)
      images, condition = (repeated_rows(x, 2) for x in (images, condition))
    options = {"has_image": given}
    if keeps_image:
      options["keeps_image_keys"] = True
    if image_keys is not None:
      options["image_keys"] = image_keys
    clean_time = jnp.zeros(2 * rows if is_guided else rows)
    found = model.predict(variables, images, condition, clean_time, **options)
    logits = found.logits
    if is_guided:
      pair = logits.astype(jnp.float32).reshape(rows, 2, *logits.shape[1:])
      logits = pair[:, 1] + sampling.guidance_scale * (pair[:, 0] - pair[:, 1])
    return (logits, found.image_keys) if keeps_image else logits

  return predict


def generate_tokens(
  model,
  variables,
  latents,
  tokens: Int[Array, "batch length"],
  prompt_mask: Bool[Array, "batch length"],
  keys: Key[Array, " batch"],
  *,
  mask_id: int,
  sampling: TextSampling,
  has_image: Bool[Array, " batch"] | None = None,
  end_id: int | None = None,
  keeps_trace: bool = False,
) -> Texts:
  """Texts about images, see `infill`.

  Args:
    model: with `condition` and `predict`, see `experiment.model.DualModel`.
    variables: the weights of its parts.
    latents: of the images, clean; None if no example has an image.
    tokens: ids; only those at fixed positions are read.
    prompt_mask: True where the token is given.
    keys: randomness of each row's draws, see `prng.row_keys`.
    mask_id: the token id that stands for a masked token.
    sampling: the sampler's config.
    has_image: False where an example has no image; None if all have one.
    end_id: the end token; None lets no text end early.
    keeps_trace: whether to return the tokens after each step.
  """
  predict = text_predictor(model, variables, latents, sampling, has_image)
  return infill(
    predict,
    tokens,
    prompt_mask,
    keys,
    mask_id=mask_id,
    sampling=sampling,
    end_id=end_id,
    keeps_trace=keeps_trace,
  )


def _stacked(x: Array, num: int) -> Array:
  return jnp.broadcast_to(x, (num, *x.shape))


def _where(condition: Bool[Array, ""], new, old):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
