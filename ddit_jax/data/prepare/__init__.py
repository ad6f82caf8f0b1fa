"""Records written once and read many times: shards and encoder caches.

- `shards`: a folder's manifest, its shard files, and readers for their records.
- `shard_writer`: writes shards in parallel, resumes, lists bad records.
- `tally`: counts finished and bad records of a writer.
- `prepare`: copies the examples of a source into shards.
- `cache_format`: what a cache of encoder outputs holds.
- `cache_writer`: reads and encodes the records of a source for its cache.
- `cached_source`: a cache as a source of training examples.
"""
