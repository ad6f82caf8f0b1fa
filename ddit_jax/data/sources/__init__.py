"""Where examples come from.

- `registry`: opens any kind of source from a config's mapping.
- `paths`: the path of a config to a list of files.
- `annotations`: lists of records in JSON, JSON lines or CSV.
- `image_table`: records in memory whose images are files.
- `image_folder`: a folder of images with captions.
- `webdataset`: tar shards, read in place.
- `parquet`: Parquet files as Hugging Face stores images and texts.
- `tfds`: data sets that tensorflow-datasets wrote, without TensorFlow.
- `array_record`: prepared ArrayRecord shards.
- `vqa`: VQA v2, OK-VQA, TextVQA, VizWiz and GQA.
- `plain_text`: documents without images.
"""
