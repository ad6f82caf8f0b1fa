"""Records written once, read many times: shards and encoder caches."""
