"""Checkpoints of SD3 and D-DiT, from safetensors to ours and back.

- `key_map`: which published tensor is which of our parameters: the table
- `rearrange`: reorders a tensor's values between the two formats
- `slices`: applies the table: one slice of our arrays per tensor
- `safetensors_io`: safetensors files and shards, tensor by tensor
- `source_tree`: which files of a source are read
- `formats`: recognises the published formats, and other models by name
- `json_config`: the fields of a `config.json`
- `configs`: configurations, from `config.json` or from shapes
- `tokenizers`: tokenizer folders and the rows of the text head
- `dtypes`: checked and counted casts
- `plan`: assigns every tensor before any value is read
- `zarr_arrays`: folders of arrays as Orbax stores them, block by block
- `record`: metadata of a converted folder; the report
- `convert`: the import
- `hub`: small files that diffusers and transformers expect
- `export`: the inverse
- `adapter_file`: adapters (LoRA) of several trainers
- `peft`: our adapters as files for PEFT and diffusers, and back
"""
