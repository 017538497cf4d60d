"""Running a bundle: sessions, cache, adapters, generation, classification. Needs numpy, onnxruntime and tokenizers."""
