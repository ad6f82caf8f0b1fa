"""Checkpoints of SD3 and D-DiT, from safetensors to ours and back.

key_map.py         which published tensor is which of our parameters: the table
rearrange.py       how the numbers of a tensor are ordered on both sides
slices.py          the table at work: a slice of our arrays for every tensor
safetensors_io.py  safetensors files and shards, tensor by tensor
formats.py         the three published formats, and other models by name
configs.py         configurations, from `config.json` or from shapes
tokenizers.py      tokenizer folders and the rows of the text head
dtypes.py          checked and counted casts
plan.py            every tensor gets its place before any number is read
zarr_arrays.py     folders of arrays as Orbax stores them, block by block
record.py          what a converted folder says about itself; the report
convert.py         the import
hub.py             small files that diffusers and transformers expect
export.py          the inverse
peft.py            adapters (LoRA) as files for PEFT and diffusers
"""
