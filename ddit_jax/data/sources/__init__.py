"""Where examples come from; `open_source` opens any kind by its name."""
