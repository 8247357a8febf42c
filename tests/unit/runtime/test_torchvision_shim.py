import subprocess
import sys

from mmrlhf_ray.runtime import torchvision_shim


def _run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


def test_interpreter_start_imports_nothing_heavy() -> None:
    done = _run("import sys; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'mmrlhf_ray', 'numpy')])")
    assert done.stdout.strip() == "[]"


def test_vision_and_vllm_media_import_in_a_fresh_interpreter() -> None:
    code = (
        "import torchvision, torchaudio, torch, vllm.multimodal.media.audio\n"
        "from torchvision.transforms.v2 import functional as F\n"
        "print(tuple(F.resize(torch.zeros(3, 8, 8), [4, 4]).shape))\n"
        "print(tuple(torchaudio.transforms.Resample(8000, 16000)(torch.zeros(1, 80)).shape))"
    )
    done = _run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(3, 4, 4)", "(1, 160)"]


def test_enable_twice_installs_one_finder() -> None:
    code = (
        "import sys, mmrlhf_ray.runtime.torchvision_shim as s; s.enable(); s.enable(); "
        "print(s.enabled(), sum(hasattr(f, 'mmrlhf_ray_shim') for f in sys.meta_path))"
    )
    assert _run(code).stdout.split() == ["True", "1"]


def test_nothing_is_changed_beside_a_cuda_torch() -> None:
    """With the schemas withheld, as beside CUDA torch, torchvision's own outcome is what one sees."""
    code = (
        "import torch; torch.version.cuda = '13.0'\n"
        "try:\n import torchvision\n print('imported', torchvision.extension._has_ops())\n"
        "except RuntimeError as error: print(error)"
    )
    said = _run(code).stdout.strip()
    assert said in ("imported True", "operator torchvision::nms does not exist")


def test_files_are_a_lazy_line_and_this_module() -> None:
    files = torchvision_shim.files()
    assert set(files) == {"_mmrlhf_ray_shim.py", "_mmrlhf_ray_shim.pth"}
    assert files["_mmrlhf_ray_shim.pth"] == "import _mmrlhf_ray_shim; _mmrlhf_ray_shim.enable()\n"
