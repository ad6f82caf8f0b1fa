"""Where examples come from.

- `registry`: opens any kind of source from a config's mapping.
- `paths`: untrusted files and folders that a config names.
- `annotations`: untrusted texts, and lists of records: JSON, CSV, Parquet.
- `image_table`: records in memory whose images are files, and question rows.
- `image_lists`: lists of captioned images, of D-DiT, Hugging Face and COCO.
- `caption_files`: folders of images with captions in files beside them.
- `image_folder`: a folder of images with captions.
- `tar`: the members of a tar file by their offsets.
- `tar_samples`: which samples of a tar shard are used.
- `tar_index`: an index of the samples in tar shards.
- `webdataset`: tar shards, read in place.
- `parquet_files`: Parquet files that others wrote.
- `parquet`: Parquet files as Hugging Face stores images and texts.
- `tfds`: data sets written by tensorflow-datasets, without TensorFlow.
- `array_record`: prepared ArrayRecord shards.
- `pairs`: preference pairs of images or of texts.
- `vqa`: VQA v2, OK-VQA, TextVQA, VizWiz, GQA, POPE and Easy-VQA.
- `llava`: LLaVA's conversations.
- `plain_text`: documents without images.
- `packed_texts`: full rows of tokens from documents.
- `digits`: scenes of the digit world.
"""
