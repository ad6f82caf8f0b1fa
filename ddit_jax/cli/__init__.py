"""The command line: `ddit VERB ...`.

- `main`: finds the verb and runs it.
- `flags`: the flags of a verb.
- `commands`: `train`, `sample`, `evaluate` and `lora`.
- `prepare`: `prepare`.
- `probe`: `probe`.
- `score`: `score`.
- `compare`: `compare`.
- `judge`: `judge`.
- `plan`: `plan`.
- `serve`: `serve`.
- `demo`: `demo`.
- `cluster`: how a process joins the others of its job.
- `compilation_cache`: compiled programs on disk.
"""
