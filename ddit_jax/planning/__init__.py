"""What a compiled program costs on a chip, without running it.

- `chips`: figures of accelerators, each with its source.
- `compiler_options`: XLA's options by chip, each with its reason.
- `hlo`: compiled programs, read from their text.
- `collectives`: their communication, exposed or overlapped.
- `compiler_remat`: what the compiler repeats to save memory.
- `breakdown`: their cycles by kind of work.
- `tpu_program`: programs of the TPU compiler, whole or without machine code.
- `roofline`: cycles of the latter, from FLOPs and bytes.
- `links`: times of collectives from the rates of links.
- `memory`: their memory by kind, and the largest arrays.
- `traced_flops`: operations of a traced program, those of kernels apart.
- `topology`: devices to compile for, that need not be attached.
"""
