"""Checkpoints of SD3 and D-DiT, from safetensors to ours and back.

key_map.py         which published tensor is which of our parameters: the table
rearrange.py       reorders a tensor's values between the two formats
slices.py          applies the table: one slice of our arrays per tensor
safetensors_io.py  safetensors files and shards, tensor by tensor
formats.py         the three published formats, and other models by name
configs.py         configurations, from `config.json` or from shapes
tokenizers.py      tokenizer folders and the rows of the text head
dtypes.py          checked and counted casts
plan.py            assigns every tensor before any value is read
zarr_arrays.py     folders of arrays as Orbax stores them, block by block
record.py          metadata of a converted folder; the report
convert.py         the import
hub.py             small files that diffusers and transformers expect
export.py          the inverse
peft.py            adapters (LoRA) as files for PEFT and diffusers
"""
