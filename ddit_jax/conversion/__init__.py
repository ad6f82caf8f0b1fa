"""Checkpoints of SD3 and D-DiT, from safetensors to ours and back.

- `key_map`: which published tensor is which of our parameters: the table
- `rearrange`: reorders a tensor's values between the two formats
- `slices`: applies the table: one slice of our arrays per tensor
- `safetensors_io`: safetensors files and shards, tensor by tensor
- `formats`: the three published formats, and other models by name
- `configs`: configurations, from `config.json` or from shapes
- `tokenizers`: tokenizer folders and the rows of the text head
- `dtypes`: checked and counted casts
- `plan`: assigns every tensor before any value is read
- `zarr_arrays`: folders of arrays as Orbax stores them, block by block
- `record`: metadata of a converted folder; the report
- `convert`: the import
- `hub`: small files that diffusers and transformers expect
- `export`: the inverse
- `peft`: adapters (LoRA) as files for PEFT and diffusers
"""
