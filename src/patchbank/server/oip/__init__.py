"""The Open Inference Protocol (KServe V2) with the binary extension, as tritonclient and kserve's client speak it."""
