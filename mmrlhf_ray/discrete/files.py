"""Names of what a finished run leaves in its directory; apart from saved.py, so that serving loads no RLlib."""

MODULE_DIR = "module"
"""The trained module; the files below are in it."""
WEIGHTS_FILE = "module.safetensors"
CONFIG_FILE = "config.yaml"
ONNX_FILE = "model.onnx"
"""Made by `mmrlhf discrete-export`."""
