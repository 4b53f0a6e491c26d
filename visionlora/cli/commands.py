"""The commands, each a module of ``visionlora``, with what it does in a line."""

COMMANDS = {
    "check": "what is wrong with images and labels, before a training",
    "pack": "write images and labels as shards",
    "train": "fine-tune a backbone and write a run folder",
    "plan": "what that will take in memory, time and disk: the same settings as train",
    "evaluate": "measure a finished run: run=DIR",
    "predict": "what a finished run says of images: run=DIR input=FILE_OR_FOLDER",
    "explain": "what a run looks at, and where it changed the network: run=DIR",
    "export": "hand a finished run on: run=DIR format=timm|onnx|…",
    "compress": "int8 and pruning, measured: run=DIR",
    "report": "compare finished runs: runs=DIR",
    "search": "look for good settings with Optuna",
}
