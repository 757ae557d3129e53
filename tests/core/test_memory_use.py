"""Peak memory follows from the larger of token budget and longest text, not from the number of texts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3_core.folder import BUNDLED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak through /proc")

MEASURE = """
import re, sys, warnings
from pathlib import Path
from m3_core.encoder import M3Encoder

def resident(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

folder, shorts, long = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
encoder = M3Encoder.load(folder, device="cpu")
encoder.encode_documents(["Berlin ist die Hauptstadt"] * 8)  # what is allocated once
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
before = resident("VmRSS")
warnings.simplefilter("ignore")
texts = [f"Number {row}: the quick brown fox jumps over the lazy dog" for row in range(shorts)]
texts.insert(shorts // 2, "Berlin " * long)
vectors = encoder.encode_documents(texts)
assert len(vectors) == shorts + 1
assert max(len(row) for row in vectors.multi) == min(8191, long + 1)
print(resident("VmHWM") - before)
"""


def peak(folder: Path, shorts: int, long: int) -> int:
    """Bytes by which a process grows beyond what a loaded encoder has."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(shorts), str(long)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def realistic(xlmr_folder: Path, target: Path) -> Path:
    """A random model of 6 layers x 384."""
    import torch

    from m3_core.model import M3Model

    small, tokenizer = M3Model.load(xlmr_folder)
    shape = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    }
    torch.manual_seed(0)
    M3Model({**small.raw_config, **shape}, multi_dim=384).save(target, tokenizer)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "bundled"])
def test_a_thousand_short_texts_beside_a_long_one(kind: str, xlmr_folder: Path, tmp_path: Path) -> None:
    folder = BUNDLED / "m3-tiny"
    if kind == "random":
        folder = realistic(xlmr_folder, tmp_path / "realistic")
    elif not folder.is_dir():
        pytest.skip("the bundled model is not in this checkout")
    alone, together = peak(folder, 0, 8190), peak(folder, 1000, 8190)
    assert together <= 1.5 * alone, f"{alone / 1e6:.0f} MB alone, {together / 1e6:.0f} MB with the others"


@pytest.mark.slow
def test_four_times_as_many_texts_of_a_stream_need_no_more(xlmr_folder: Path, tmp_path: Path) -> None:
    folder = realistic(xlmr_folder, tmp_path / "realistic")
    script = """
import resource, sys
from m3_core.encoder import M3Encoder

encoder = M3Encoder.load(sys.argv[1], device="cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stream = (f"Number {row}: the lazy dog" for row in range(4000))
for number, block in enumerate(encoder.iter_documents(stream, look_ahead=100)):
    if number == 9:
        early = peak()
print(early, peak())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = map(int, done.stdout.split())
    assert late <= 1.02 * early
