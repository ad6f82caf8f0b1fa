"""From records to batches on devices.

`tokenizer` is the interface of every tokenizer, `text_layout` says how
captions, questions and answers lie in a fixed length. Data in memory are
`records`. Data on disk are `examples` of `sources/`, made into records by
`transforms/` and `reading`, which replaces and counts what is bad
(`read_log`); `source_readers` gives all sources of a stream records of one
form. `mixtures` says which record lies at which place, `read_ahead` and
`streams` give batches, `device_feed` puts them on the mesh ahead of time.
`prepare_records` writes shards in `record_format`. `clip_tokenizers` and
`prompt_tokenizers` are SD3's own.
"""
