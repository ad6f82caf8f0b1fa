"""From records to batches on devices.

- `config`: the `data` section of a config.
- `sources`: where examples come from.
- `prepare`: shards and encoder caches, written once and read many times.
- `example`: what sources give and training takes; bad records.
- `image_header`: sizes from headers, and filters on them.
- `image`: untrusted bytes to an upright RGB image.
- `text`: captions, questions and answers as texts of fixed length.
- `tokenizers`: the interface of every tokenizer, and the word tokenizer.
- `source_words`: the words of small sources.
- `prompt_tokenizers`: prompts as the ids that SD3's text encoders take.
- `transforms`: one example to one training record.
- `source_records`: the sources of a mixture as records in one form.
- `reader`: a source's examples as training records, in any order.
- `bad_records`: the records that could not be read, counted by reason.
- `schedule`: weights of sources as a function of the step.
- `mixture`: several sources as one endless, weighted, shuffled order.
- `aspect_buckets`: batches of images of nearly the same aspect ratio.
- `held_out`: records that only validation reads.
- `loader`: batches of both tasks, and their position for checkpoints.
- `training_data`: what a run reads: both tasks and a validation batch.
- `crop_report`: the share of images' pixels that training crops away.
- `prefetch`: moves batches onto the mesh ahead of time.
- `pixel_codec`: pixels to latents, for networks that work on pixels.
"""
