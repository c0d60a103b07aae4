"""Hold what objectives share: the kernel of contrasts, candidates, blocks of rows, decoders, teachers, wrappers."""
