"""A network with the encoders of its inputs, pixels and tokens."""

import abc
import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, Shaped, UInt8

from ddit_jax.batch import Images
from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.encoders.vae import Posterior
from ddit_jax.models.attention import choose_kernel
from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.module import (
  Network,
  PureModule,
  Variables,
  counts_table,
  parameter_counts,
)
from ddit_jax.sharding.placement import (
  PlacedLeaf,
  placement_summary,
  with_shardings,
)


class ModelParts(abc.ABC):
  """A trained network and the frozen parts around it, by name.

  Attributes:
    network: the trained part.
  """

  network: PureModule

  @abc.abstractmethod
  def parts(self) -> dict[str, PureModule]:
    """The modules by the name of their variables."""

  def abstract_variables(self, mesh: Mesh) -> dict[str, Variables]:
    """Shapes, dtypes and shardings of all parts."""
    return {
      name: with_shardings(part.abstract_variables(), part.shardings(mesh))
      for name, part in self.parts().items()
    }

  def placements(self, mesh: Mesh) -> dict[str, list[PlacedLeaf]]:
    """Where each array of each part lies."""
    return {name: part.placements(mesh) for name, part in self.parts().items()}

  def report(self, mesh: Mesh) -> str:
    """Parameters of each part, and how the mesh splits them."""
    counts = {
      name: parameter_counts(part.abstract_variables())
      for name, part in self.parts().items()
    }
    placed = "\n".join(
      f"{name}: {placement_summary(rows)}"
      for name, rows in self.placements(mesh).items()
    )
    return (
      f"{self.network.num_parameters()} parameters on {mesh.size} devices "
      f"{dict(mesh.shape)}{self.image_note()}\n{counts_table(counts)}\n"
      f"{placed}"
    )

  def image_note(self) -> str:
    """What the report says about images, if anything."""
    return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualModel(ModelParts):
  """The MM-DiT between its encoders; all methods are pure functions.

  Attributes:
    network: the MM-DiT.
    text_encoder: T5, or None if the network embeds tokens itself.
    autoencoder: pixels to latents and back, or None if it works on pixels.
    mask_id: the token id that stands for a masked token; None if the model
      has no text head.
  """

  network: Network
  text_encoder: PureModule | None = None
  autoencoder: PureModule | None = None
  mask_id: int | None = None

  def parts(self) -> dict[str, PureModule]:
    """The modules by the name of their variables."""
    parts = {
      "network": self.network,
      "text_encoder": self.text_encoder,
      "vae": self.autoencoder,
    }
    return {name: part for name, part in parts.items() if part is not None}

  def image_note(self) -> str:
    """The largest image."""
    side = self.largest_image
    return f", for images of up to {side} x {side} pixels"

  @property
  def pixels_per_patch(self) -> int:
    """Images need sides that are multiples of this."""
    patch = self.network.config.patch_size
    if self.autoencoder is None:
      return patch
    return patch * self._config.downsampling

  @property
  def largest_image(self) -> int:
    """Side of the largest square image, in pixels."""
    return self.network.config.max_grid * self.pixels_per_patch

  @property
  def bin_width(self) -> float:
    """Distance between the values of a latent; 0 if they are continuous."""
    return PixelCodec.bin_width if self.autoencoder is None else 0.0

  def check_fits(self) -> None:
    """Raises ValueError if network and encoders have different features."""
    config = self.network.config
    given = None
    if self.text_encoder is not None:
      given = self.text_encoder.module.config.width
    if config.context_dim != given:
      raise ValueError(
        f"the network takes text features of {config.context_dim}, the text "
        f"encoder gives {given}: choose a model.size with a text encoder if "
        "and only if model.encoders_from is set"
      )
    channels = 3
    if self.autoencoder is not None:
      channels = self._config.latent_channels
    if config.latent_channels != channels:
      raise ValueError(
        f"the network takes {config.latent_channels} channels, the images "
        f"have {channels}: choose another model.size"
      )

  def check_runs_on(self, mesh: Mesh) -> None:
    """Raises InputError if the mesh cannot run the attention as configured."""
    config, execution = self.network.config, self.network.execution
    choose_kernel(
      execution.attention_kernel,
      num_tokens=1,
      num_heads=config.num_heads,
      head_dim=config.head_dim,
      dtype=execution.dtype,
      mesh=mesh.abstract_mesh,
    )

  def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """(rows, columns, channels) of the latents of an image.

    Raises:
      ValueError: the patches do not divide the image.
    """
    unit = self.pixels_per_patch
    if height % unit or width % unit or height < unit or width < unit:
      raise ValueError(
        f"images of {height} x {width} pixels do not fit this model: make "
        f"both sides multiples of {unit}"
      )
    config = self.network.config
    if max(height, width) > self.largest_image:
      raise ValueError(
        f"images of {height} x {width} pixels are too large: this model's "
        f"position table ends at {self.largest_image}; to train a new one for "
        f"them, set model.max_grid={max(height, width) // unit}"
      )
    patch, channels = config.patch_size, config.latent_channels
    return height // unit * patch, width // unit * patch, channels

  def condition(
    self,
    variables,
    text: Shaped[Array, "batch length *features"],
    is_text_clean: bool = False,
  ) -> Shaped[Array, "batch length *condition"]:
    """The network's text input: T5's features, or tokens if it embeds them.

    Args:
      variables: of all parts.
      text: token ids, or their features, returned as is.
      is_text_clean: True if no token is masked. Then the network's mask
        embedding is not used and gets no gradient.
    """
    is_encoded = not jnp.issubdtype(text.dtype, jnp.integer)
    if self.text_encoder is None or is_encoded:
      return text
    frozen = variables["text_encoder"]
    if is_text_clean or not self.network.has_mask_embedding:
      return self.text_encoder.apply(frozen, text)
    row = self.network.mask_embedding(variables["network"])
    embedded = self.text_encoder.apply(frozen, text, method="embed")
    is_mask = (text == self.mask_id)[..., None]
    row = row.astype(embedded.dtype)[None, None]
    embedded = jnp.where(is_mask, row, embedded)
    return self.text_encoder.apply(frozen, embedded, method="encode_embedded")

  @property
  def has_mask_embedding(self) -> bool:
    """True if the run has its own embedding of T5's mask token."""
    return self.network.has_mask_embedding

  def frozen_mask_embedding(self, frozen) -> Float[Array, " features"]:
    """The mask token's embedding in T5's own table, float32."""
    table = frozen["text_encoder"]["params"]["token_embedding"]
    return table[self.mask_id].astype(jnp.float32)

  def predict(
    self,
    variables,
    latents,
    condition: Shaped[Array, "batch length *features"],
    sigma: Float[Array, " batch"],
    **options,
  ) -> Prediction:
    """Velocity and logits of the network; see `MMDiT.__call__`."""
    return self.network.apply(
      variables["network"], latents, condition, sigma, **options
    )

  def text_logits(
    self, variables, text_hidden: Float[Array, "batch positions features"]
  ) -> Float[Array, "batch positions vocab"]:
    """Logits at some positions of `Prediction.text_hidden`."""
    return self.network.text_logits(variables["network"], text_hidden)

  def encode(
    self, variables, images: Images, key: Key[Array, ""] | None = None
  ) -> Float[Array, "batch height width channels"]:
    """Clean latents of `batch.Images`: uint8 pixels or cached moments.

    Args:
      variables: of all parts.
      images: pixels, or the floating moments of their posterior.
      key: draws from the posterior, as in training; None takes its mean.
    """
    if self.autoencoder is None:
      return PixelCodec().encode(images)
    if jnp.issubdtype(images.dtype, jnp.floating):
      posterior = Posterior.from_moments(images)
    else:
      posterior = self.autoencoder.apply(
        variables["vae"], PixelCodec().encode(images), method="encode"
      )
    latents = posterior.mean if key is None else posterior.sample(key)
    return self._config.to_network(latents.astype(jnp.float32))

  def decode(
    self, variables, latents: Float[Array, "batch rows columns channels"]
  ) -> UInt8[Array, "batch height width 3"]:
    """Latents to pixels."""
    if self.autoencoder is not None:
      latents = self.autoencoder.apply(
        variables["vae"], latents, method="decode"
      )
    return PixelCodec().decode(latents)

  @property
  def _config(self):
    return self.autoencoder.module.config
