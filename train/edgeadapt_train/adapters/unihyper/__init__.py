"""UniHyperLoRA, SAT-LoRA and HF-SAT-LoRA: `adapter` has the equations and the contract, `config` the options; a part
each is in the other files."""
