"""The name under which every file keeps its contract; needs nothing, as the runtime does."""

CONTRACT_KEY = "compiled_rl.contract"
