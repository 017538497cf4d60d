"""The adapters: `base` is the contract, `registry` names the methods, one file (or family of files) per method."""
