"""The whole MM-DiT in slow, obvious float64 numpy, written from the papers.

It reads a parameter tree of plain arrays and shares no code with the package.
"""

import math

import numpy as np

from ddit_jax.models.config import MMDiTConfig


def randomised(tree, seed: int, scale: float = 0.3):
  """A tree of float32 normal draws, so that no zero initialiser hides."""
  draw = np.random.default_rng(seed)

  def one(node):
    if isinstance(node, dict):
      return {name: one(child) for name, child in sorted(node.items())}
    return (scale * draw.normal(size=node.shape)).astype(np.float32)

  return one(tree)


def in_float64(tree):
  """The same tree in double precision."""
  if isinstance(tree, dict):
    return {name: in_float64(child) for name, child in tree.items()}
  return np.asarray(tree, np.float64)


def layer(tree, index: int):
  """One block's weights out of the stacked ones."""
  if isinstance(tree, dict):
    return {name: layer(child, index) for name, child in tree.items()}
  return tree[index]


def silu(x):
  return x / (1 + np.exp(-x))


def gelu(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def layer_norm(x, epsilon=1e-6):
  out = np.zeros(x.shape)
  for index in np.ndindex(x.shape[:-1]):
    row = x[index]
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    out[index] = (row - mean) / math.sqrt(variance + epsilon)
  return out


def rms_norm(x, scale, epsilon=1e-6):
  out = np.zeros(x.shape)
  for index in np.ndindex(x.shape[:-1]):
    row = x[index]
    mean_square = sum(value**2 for value in row) / len(row)
    out[index] = scale * row / math.sqrt(mean_square + epsilon)
  return out


def attention(query, key, value, key_mask=None):
  """Three loops over [batch, tokens, heads, head_dim]."""
  return attention_and_gradients(query, key, value, key_mask)[0]


def attention_and_gradients(query, key, value, key_mask=None, pulled=None):
  """Attention, and what `pulled` (its gradient) pulls back to (q, k, v).

  A row of scores is handled at a time; the softmax has a Jacobian matrix.
  """
  out = np.zeros(query.shape)
  gradients = [np.zeros(x.shape) for x in (query, key, value)]
  batch, queries, heads, head_dim = query.shape
  for b, i, h in np.ndindex(batch, queries, heads):
    seen = np.full(key.shape[1], True) if key_mask is None else key_mask[b]
    keys, values = key[b, seen, h], value[b, seen, h]
    scores = keys @ query[b, i, h] / math.sqrt(head_dim)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    out[b, i, h] = weights @ values
    if pulled is not None:
      jacobian = np.diag(weights) - np.outer(weights, weights)
      at_scores = jacobian @ (values @ pulled[b, i, h]) / math.sqrt(head_dim)
      gradients[0][b, i, h] = at_scores @ keys
      gradients[1][b, seen, h] += np.outer(at_scores, query[b, i, h])
      gradients[2][b, seen, h] += np.outer(weights, pulled[b, i, h])
  return out, gradients


def dense(params, x):
  return x @ params["kernel"] + params["bias"]


def two_layers(params, x):
  return dense(params["linear_2"], silu(dense(params["linear_1"], x)))


def modulation(params, vector):
  """The rows of adaLN, a list of [batch, width]."""
  kernel, bias = params["project"]["kernel"], params["project"]["bias"]
  return [silu(vector) @ kernel[:, row] + bias[row] for row in range(len(bias))]


def modulate(x, shift, scale):
  return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


def joint_block(params, image, text, vector, *, is_text_full=True):
  """Paper figure: norm, modulate, attend jointly, gate, MLP, gate."""
  streams = {"image": image, "text": text}
  rows, qkv = {}, {"q": [], "k": [], "v": []}
  for name, tokens in streams.items():
    p = params[name]
    rows[name] = modulation(p["modulation"], vector)
    if name == "image" or is_text_full:
      shift, scale = rows[name][0], rows[name][1]
    else:
      scale, shift = rows[name]
    normed = modulate(tokens, shift, scale)
    for i, letter in enumerate("qkv"):
      kernel, bias = p["qkv"]["kernel"][:, i], p["qkv"]["bias"][i]
      qkv[letter].append(np.einsum("btw,whd->bthd", normed, kernel) + bias)
    if "query_norm" in p:
      qkv["q"][-1] = rms_norm(qkv["q"][-1], p["query_norm"]["scale"])
      qkv["k"][-1] = rms_norm(qkv["k"][-1], p["key_norm"]["scale"])
  attended = attention(*(np.concatenate(qkv[x], axis=1) for x in "qkv"))
  parts = {
    "image": attended[:, : image.shape[1]],
    "text": attended[:, image.shape[1] :],
  }
  for name in ("image", "text") if is_text_full else ("image",):
    p = params[name]
    _, _, gate, mlp_shift, mlp_scale, mlp_gate = rows[name]
    out = np.einsum("bthd,hdw->btw", parts[name], p["out"]["kernel"])
    tokens = streams[name] + gate[:, None] * (out + p["out"]["bias"])
    hidden = gelu(dense(p["mlp"]["in"], modulate(tokens, mlp_shift, mlp_scale)))
    hidden = dense(p["mlp"]["out"], hidden)
    streams[name] = tokens + mlp_gate[:, None] * hidden
  return streams["image"], streams["text"]


def sinusoid(sigma, channels=256):
  """[batch, channels]: cosines, then sines of 1000 sigma."""
  out = np.zeros((len(sigma), channels))
  for b, time in enumerate(np.asarray(sigma, np.float64)):
    for i in range(channels // 2):
      angle = 1000 * time / 10000 ** (i / (channels // 2))
      out[b, i] = math.cos(angle)
      out[b, channels // 2 + i] = math.sin(angle)
  return out


def position_table(grid, width, base_grid):
  """[grid, grid, width]: column's sines, cosines, then the row's."""
  quarter = width // 4
  out = np.zeros((grid, grid, width))
  for row in range(grid):
    for column in range(grid):
      for half, index in enumerate((column, row)):
        for i in range(quarter):
          angle = index * base_grid / grid / 10000 ** (i / quarter)
          start = half * 2 * quarter
          out[row, column, start + i] = math.sin(angle)
          out[row, column, start + quarter + i] = math.cos(angle)
  return out


def patches(latents, side):
  """[batch, tokens, side * side * channels], one patch at a time."""
  latents = np.asarray(latents)
  batch, height, width, _ = latents.shape
  rows = []
  for b in range(batch):
    tokens = []
    for y in range(0, height, side):
      for x in range(0, width, side):
        tokens.append(
          [
            value
            for dy in range(side)
            for dx in range(side)
            for value in latents[b, y + dy, x + dx]
          ]
        )
    rows.append(tokens)
  return np.array(rows)


def image_of(tokens, height, width, side):
  """The inverse of `patches`."""
  batch, _, contents = tokens.shape
  channels = contents // side**2
  out = np.zeros((batch, height, width, channels))
  for b in range(batch):
    for y in range(height):
      for x in range(width):
        token = (y // side) * (width // side) + x // side
        start = ((y % side) * side + x % side) * channels
        out[b, y, x] = tokens[b, token, start : start + channels]
  return out


def mmdit(variables, config: MMDiTConfig, latents, text, sigma, pooled=None):
  """(velocity or None, logits or None) of the whole network."""
  params = in_float64(variables["params"])
  latents, text, sigma, pooled = (
    None if x is None else np.asarray(x) for x in (latents, text, sigma, pooled)
  )
  batch = len(sigma)
  if latents is None:
    image = np.stack([params["null_image"]] * batch)
  else:
    table = in_float64(variables["constants"]["position_table"])
    rows = latents.shape[1] // config.patch_size
    columns = latents.shape[2] // config.patch_size
    top = (config.max_grid - rows) // 2
    left = (config.max_grid - columns) // 2
    crop = table[top : top + rows, left : left + columns]
    image = patches(latents, config.patch_size)
    image = dense(params["patch_embedding"]["project"], image)
    image = image + crop.reshape(1, rows * columns, config.width)
  if config.context_dim is None:
    p = params["token_embedding"]
    words = p["tokens"][text] + p["positions"][None, : text.shape[1]]
    words = words * math.sqrt(config.width / 2)
  else:
    words = dense(params["context_embedding"], text)
  vector = two_layers(params["time_embedding"], sinusoid(sigma))
  if pooled is not None:
    vector = vector + two_layers(params["pooled_embedding"], pooled)
  num_stacked = config.depth - (not config.is_last_text_block_full)
  for i in range(num_stacked):
    block = layer(params["blocks"], i)
    image, words = joint_block(block, image, words, vector)
  if not config.is_last_text_block_full:
    image, words = joint_block(
      params["last_block"], image, words, vector, is_text_full=False
    )
  velocity = logits = None
  if latents is not None:
    scale, shift = modulation(params["image_head"]["modulation"], vector)
    out = dense(params["image_head"]["project"], modulate(image, shift, scale))
    velocity = image_of(out, *latents.shape[1:3], config.patch_size)
  if config.vocab_size:
    logits = dense(params["text_head"]["project"], layer_norm(words))
  return velocity, logits
