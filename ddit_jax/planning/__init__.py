"""What a compiled program costs on a chip, without running it.

- `chips`: figures of accelerators, each with its source.
- `hlo`: compiled programs, read from their text.
- `collectives`: their communication, exposed or overlapped.
- `compiler_remat`: what the compiler repeats to save memory.
"""
